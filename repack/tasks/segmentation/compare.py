"""The gate's task metric for segmentation: the same masks, label by label.

Dice is ``2 |A and B| / (|A| + |B|)`` over all windows together. The Hausdorff distance (95 %) is
the larger of the two 95th percentiles of the distances from one mask's surface to the other's
(Huttenlocher et al. 1993, with the percentile of Menze et al. 2015, the BraTS benchmark), in mm of
the window's grid, the worst window's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.volumes.masks import sequence
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.tasks.base import Comparison
from repack.tasks.segmentation.model import OUTPUT

Mask = NDArray[np.bool_]

DICE = {"f32": 0.999, "f16": 0.995, "bf16": 0.99, "int8": 0.97, "best": 0.97}
"""Least Dice per label."""

SURFACE_VOXELS = {"f32": 1.0, "f16": 1.0, "bf16": 2.0, "int8": 3.0, "best": 3.0}
"""Largest Hausdorff distance (95 %), in steps of the grid's coarsest axis."""

CALIBRATED = ("int8", "best")
"""Precisions whose ranges come from the user's own data. A label that the samples hold is judged on
them alone: made-up windows lie outside these ranges, and the net is sure of nothing there."""

FEW = 64
"""A label of fewer voxels on both sides is shown and not judged, unless one side has none at all:
one voxel more or less would decide."""


def compare(
    model: Model,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    samples: Sequence[Sample] = (),
) -> Comparison:
    """Dice and surface distance per label; as ``Task.compare``.

    Runs also where the logits already failed, because it names why: a net that overflows in a
    reduced precision answers background everywhere.
    """
    result = Comparison()
    settings = model.settings
    names = channels(settings, model.source.labels)
    spacing = settings["spacing"] or [1.0] * len(settings["patch"])
    unit = "mm" if settings["spacing"] else "voxels"
    on_made_up, on_samples = ({name: Tally() for name in names} for _ in range(2))
    first_sample = len(originals) - len(samples)
    for i, (want, have) in enumerate(zip(originals, converted, strict=True)):
        other = have.get(OUTPUT)
        if other is None or other.shape != want[OUTPUT].shape:
            return result  # already a failure, by name
        pairs = zip(masks(want[OUTPUT], settings), masks(other, settings), strict=True)
        for name, (a, b) in zip(names, pairs, strict=True):
            (on_samples if i >= first_sample else on_made_up)[name].add(a, b, spacing)
    alone = [n for n in names if asked in CALIBRATED and on_samples[n].original >= FEW]
    tallies = {n: on_samples[n] if n in alone else on_samples[n] + on_made_up[n] for n in names}
    limit = SURFACE_VOXELS[asked] * max(spacing)
    result.figures = {
        "labels": {name: tally.shown(unit) for name, tally in tallies.items()},
        "limits": {"dice": DICE[asked], f"hd95_{unit}": limit},
        "windows": sum(len(answer[OUTPUT]) for answer in originals),
        "grid": f"{' x '.join(f'{s:g}' for s in spacing)} {unit}",
    }
    if covered := hidden(originals, settings, model.source.labels):
        result.figures["never_in_a_mask"] = ", ".join(covered)
    if alone:
        result.figures["judged_on_samples_alone"] = ", ".join(alone)
    collapse = _collapse(asked, tallies, converted)
    if collapse:
        result.failures.append(collapse)
        return result
    for name, tally in tallies.items():
        result.failures += tally.failures(name, DICE[asked], limit, f"{unit} for {asked}")
    return result


def channels(settings: Mapping[str, Any], labels: Sequence[str]) -> list[str]:
    """The names of the masks that ``masks`` gives: foreground labels, or regions."""
    answer = settings["answer"]
    return list(answer.get("names") or labels[1:])


def masks(logits: NDArray[Any], settings: Mapping[str, Any]) -> list[Mask]:
    """One mask ``[batch, *patch]`` per foreground label or region; NaN belongs to none."""
    answer = settings["answer"]
    if answer["kind"] == "argmax":
        numbers = np.nan_to_num(logits, nan=-np.inf)
        best = numbers.argmax(1)
        return [best == i for i in range(1, logits.shape[1])]
    share = answer.get("threshold", 0.5)
    above = np.log(share / (1 - share))
    return [logits[:, i] > above for i in range(logits.shape[1])]


def values(settings: Mapping[str, Any], count: int) -> list[int]:
    """What each of the masks of ``masks`` is drawn as: 1 and up, or the regions' own."""
    return list(settings["answer"].get("order") or range(1, count + 1))


def drawn(found: Sequence[Mask], settings: Mapping[str, Any]) -> NDArray[np.int64]:
    """The masks of ``masks`` in one array of labels, as the handler writes them over each other."""
    numbers = values(settings, len(found))
    whole = np.zeros(found[0].shape, np.int64)
    for i in sequence(settings["answer"], len(found)):
        whole[found[i]] = numbers[i]
    return whole


def hidden(
    answers: Sequence[Arrays], settings: Mapping[str, Any], labels: Sequence[str]
) -> list[str]:
    """Labels that are found, and of which no voxel is left when the others are written.

    Args:
        answers: of the model, with logits ``[batch, outputs, *patch]`` each.
        labels: the source's, the background's first.
    """
    if settings["answer"]["kind"] == "argmax":
        return []
    names = channels(settings, labels)
    there, left = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    for answer in answers:
        found = masks(answer[OUTPUT], settings)
        whole = drawn(found, settings)
        there += [int(mask.sum()) for mask in found]
        left += [
            int((whole[mask] == value).sum())
            for mask, value in zip(found, values(settings, len(found)), strict=True)
        ]
    return [name for name, a, b in zip(names, there, left, strict=True) if a and not b]


class Tally:
    """One label's voxels over all windows."""

    def __init__(self) -> None:
        self.original = self.converted = self.both = 0
        self.surface = 0.0
        self.judged = 0

    def add(self, a: Mask, b: Mask, spacing: Sequence[float]) -> None:
        """Counts one batch of windows, ``[batch, *patch]`` each."""
        self.original += int(a.sum())
        self.converted += int(b.sum())
        self.both += int((a & b).sum())
        for one, other in zip(a, b, strict=True):
            if one.sum() >= FEW and other.sum() >= FEW:
                self.surface = max(self.surface, hausdorff95(one, other, spacing))
                self.judged += 1

    def __add__(self, other: Tally) -> Tally:
        both = Tally()
        for name in ("original", "converted", "both", "judged"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        both.surface = max(self.surface, other.surface)
        return both

    @property
    def dice(self) -> float:
        """1 where neither side has the label."""
        total = self.original + self.converted
        return 2 * self.both / total if total else 1.0

    def shown(self, unit: str) -> dict[str, Any]:
        return {
            "dice": round(self.dice, 5) if self.original + self.converted else "in no window",
            f"hd95_{unit}": round(self.surface, 3) if self.judged else "no window has enough of it",
            "voxels": self.original,
        }

    def failures(self, name: str, dice: float, surface: float, what: str) -> list[str]:
        """What is wrong with this label, one line each."""
        if self.original and not self.converted:
            return [f"{name}: gone, the original marks {self.original:,} voxels"]
        found = []
        if max(self.original, self.converted) >= FEW and self.dice < dice:
            found.append(f"{name}: Dice {self.dice:.4f}, at least {dice}")
        if self.surface > surface:
            found.append(f"{name}: surface {self.surface:.2f} apart, at most {surface:.2f} {what}")
        return found


def hausdorff95(a: Mask, b: Mask, spacing: Sequence[float]) -> float:
    """The 95 % Hausdorff distance of two masks, neither empty, in the unit of ``spacing``."""
    from scipy import ndimage

    def surface(mask: Mask) -> Mask:
        inner: Mask = ndimage.binary_erosion(mask, border_value=0)
        return mask & ~inner

    first, second = surface(a), surface(b)
    to_first = ndimage.distance_transform_edt(~first, sampling=spacing)
    to_second = ndimage.distance_transform_edt(~second, sampling=spacing)
    ends = np.percentile(to_second[first], 95), np.percentile(to_first[second], 95)
    return float(max(ends))


def _collapse(asked: str, tallies: Mapping[str, Tally], converted: Sequence[Arrays]) -> str | None:
    """The line for masks that are all background in a reduced precision, else None."""
    if asked == "f32":
        return None
    original = sum(t.original for t in tallies.values())
    if not original or any(t.converted for t in tallies.values()):
        return None
    odd = sum(int((~np.isfinite(answer[OUTPUT])).sum()) for answer in converted)
    cause = "fp16 overflow" if asked in ("f16", "best") else f"{asked} collapse"
    logits = f"; {odd:,} logits are NaN or infinity" if odd else ""
    return (
        f"{cause}: every mask is background, the original marks {original:,} voxels{logits}: "
        "use bf16 or f32"
    )
