"""What a segmentation network wants of a volume, as the passport's settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import ArchiveError
from handlers.passport import TensorSpec
from handlers.volumes import bundles
from handlers.windows import Windows

NORMALISATIONS: dict[str, tuple[str, ...]] = {
    "ct": ("lower", "upper", "mean", "std"),
    "scale_range": ("a_min", "a_max", "b_min", "b_max"),
    "zscore": (),
    "zscore_nonzero": (),
    "rescale_0_1": (),
    "rgb_to_0_1": (),
    "none": (),
}
"""Kinds of normalisation, and the numbers that each needs."""

ANSWERS = ("argmax", "regions", "sigmoid_threshold")


@dataclass(frozen=True)
class Resampling:
    """How values are interpolated; see ``handlers.resampling``."""

    order: int
    order_z: int
    separate_z: bool | None


@dataclass(frozen=True)
class Recipe:
    """The settings of one network, checked.

    Attributes:
        channels: name and normalisation of each.
        orientation: axes that the volume is turned to first, as "RAS"; None takes it as stored.
        order: of the volume's axes (0 is z, 1 is y, 2 is x) in the network's input.
        spacing: mm along the network's axes; None is not resampled. Two numbers leave the first
            axis as it is.
        flat: whether the network is 2-D and sees one plane of the first axis at a time.
        rule: "nnunet" or "monai", for grids and windows.
        outputs: channels of the logits.
        answer: how logits become labels; "written" are the channels of "sigmoid_threshold" in the
            order in which they are written.
        values: the labels' values in a mask, the background's first; ``names`` are theirs.
        bundle: what only MONAI's bundles have.
    """

    channels: tuple[Mapping[str, Any], ...]
    orientation: str | None
    order: tuple[int, int, int]
    spacing: tuple[float, ...] | None
    crop: bool
    flat: bool
    data: Resampling
    logits: Resampling
    windows: Windows
    rule: str
    outputs: int
    answer: Mapping[str, Any]
    values: tuple[int, ...]
    names: tuple[str, ...]
    bundle: bundles.Bundle | None = None

    @property
    def channel_names(self) -> list[str]:
        return [str(channel["name"]) for channel in self.channels]


def read(
    settings: Mapping[str, Any], labels: Sequence[str], outputs: Sequence[TensorSpec]
) -> Recipe:
    """The recipe in the settings, labels and outputs of an archive's passport.

    Raises:
        ArchiveError: a setting is missing, or asks for what this handler does not do.
    """
    try:
        return _read(settings, labels, outputs)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise ArchiveError(
            f"the passport's settings for volumes lack or misname a field ({e!r})"
        ) from None


def _read(s: Mapping[str, Any], labels: Sequence[str], outputs: Sequence[TensorSpec]) -> Recipe:
    patch = tuple(int(n) for n in s["patch"])
    if len(patch) not in (2, 3):
        raise ValueError(f"patch {patch}")
    rule = "monai" if s.get("framework") == "monai" else "nnunet"
    values = tuple(int(v) for v in s["label_values"])
    a, b, c = (int(axis) for axis in s.get("transpose_forward", (0, 1, 2)))
    spacing = s.get("spacing")
    found = Recipe(
        channels=tuple(s["channels"]),
        orientation=s.get("orientation"),
        order=(a, b, c),
        spacing=tuple(float(mm) for mm in spacing) if spacing else None,
        crop=_known("crop", s.get("crop"), (None, "nonzero")) is not None,
        flat=len(patch) == 2,
        data=_resampling(s, "data", 3),
        logits=_resampling(s, "logits", 1),
        windows=_windows(s.get("windows", {}), patch, rule),
        rule=rule,
        outputs=_outputs(s, outputs, values),
        answer=s["answer"],
        values=values,
        names=tuple(labels),
        bundle=bundles.read(s),
    )
    _check(found)
    return found


def _check(recipe: Recipe) -> None:
    for channel in recipe.channels:
        wanted = channel["normalisation"]
        kind = _known("normalisation", wanted["kind"], tuple(NORMALISATIONS))
        for name in NORMALISATIONS[kind]:
            float(wanted[name])
    _known("answer", recipe.answer["kind"], ANSWERS)
    written = recipe.answer.get("written")
    if written is not None and sorted(written) != list(range(len(recipe.values) - 1)):
        raise ValueError(f"channels written {written}, values {recipe.values}")
    for order in (recipe.logits.order, recipe.logits.order_z):
        _known("order of the logits' resampling", order, (0, 1))
    if len(recipe.names) != len(recipe.values):
        raise ValueError(f"{len(recipe.names)} labels for {len(recipe.values)} values")
    if not all(0 <= v < 1 << 16 for v in recipe.values):
        raise ValueError(f"label values {recipe.values}")


def _known(what: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        shown = ", ".join(map(str, known))
        raise ArchiveError(f"the passport asks for {what} {value!r}; this handler does {shown}")
    return value


def _resampling(settings: Mapping[str, Any], name: str, order: int) -> Resampling:
    given = settings.get("resampling", {}).get(name, {})
    return Resampling(
        int(given.get("order", order)), int(given.get("order_z", 0)), given.get("separate_z")
    )


def _windows(given: Mapping[str, Any], patch: tuple[int, ...], rule: str) -> Windows:
    """A 2-D network's patch is one plane thick; "mirror" names axes of the patch as it is given."""
    a, b, c = (1,) * (3 - len(patch)) + patch
    return Windows(
        patch=(a, b, c),
        overlap=float(given.get("overlap", 0.5)),
        gaussian=bool(given.get("gaussian", True)),
        sigma=float(given.get("sigma", 0.125)),
        mirror=tuple(int(axis) + 3 - len(patch) for axis in given.get("mirror", ())),
        batch=int(given.get("batch", 1)),
        rule=rule,
    )


def _outputs(
    settings: Mapping[str, Any], outputs: Sequence[TensorSpec], values: tuple[int, ...]
) -> int:
    shape = outputs[0].shape if outputs else ()
    if len(shape) > 1 and isinstance(shape[1], int):
        return int(shape[1])
    answer = settings["answer"]
    if answer["kind"] == "regions":
        return len(list(answer["order"]))
    return len(values) - int(answer["kind"] == "sigmoid_threshold")
