"""MONAI's pre- and post-transforms and its inferer, as the volume handler's settings.

Each transform on the list has the arguments that are carried over, those that must have their
usual value, and those that change nothing here. Any other transform, argument or value is refused
by name: a mask made in another way than the bundle's would be wrong without anyone seeing it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repack.sources.errors import UnsupportedLayout
from repack.sources.facts import Facts

ANY = object()
"""An argument that is carried over."""

UNUSED = object()
"""An argument that changes nothing here, whatever its value: it is not even computed."""

_COMMON = {"keys": ANY} | dict.fromkeys(("allow_missing_keys", "lazy", "overwriting"), UNUSED)


def _unused(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, UNUSED)


_TYPED = {"dtype": "float32", **_unused("data_type", "device", "track_meta")}

PREPARING: dict[str, dict[str, Any]] = {
    "LoadImage": {
        "reader": (None, "ITKReader", "NibabelReader"),
        **_unused("image_only", "ensure_channel_first", "dtype", "simple_keys"),
        **_unused("prune_meta_pattern", "prune_meta_sep"),
    },
    "EnsureChannelFirst": {"channel_dim": (None, "no_channel"), **_unused("strict_check")},
    "EnsureType": _TYPED,
    "ToTensor": _TYPED,
    "CastToType": {"dtype": "float32"},
    "Orientation": {"axcodes": ANY, "as_closest_canonical": False},
    "Spacing": {
        **{"pixdim": ANY, "mode": ANY, "padding_mode": "border", "align_corners": False},
        **{"diagonal": False, "scale_extent": False, "min_pixdim": None, "max_pixdim": None},
        **_unused("dtype", "recompute_affine", "ensure_same_shape"),
    },
    "ScaleIntensityRange": {
        **{"a_min": ANY, "a_max": ANY, "b_min": ANY, "b_max": ANY, "clip": ANY},
        **_unused("dtype"),
    },
    "ScaleIntensity": {
        **{"minv": 0.0, "maxv": 1.0, "factor": None, "channel_wise": ANY},
        **_unused("dtype"),
    },
    "NormalizeIntensity": {
        **{"subtrahend": ANY, "divisor": ANY, "nonzero": ANY, "channel_wise": ANY},
        **_unused("dtype"),
    },
    "CropForeground": {
        **{"source_key": ANY, "margin": ANY, "allow_smaller": ANY, "k_divisible": 1},
        **{"mode": "constant", "select_fn": None, "channel_indices": None},
        **_unused("start_coord_key", "end_coord_key"),
    },
}
FINISHING: dict[str, dict[str, Any]] = {
    "EnsureType": _TYPED,
    "ToTensor": _TYPED,
    "Activations": {"softmax": ANY, "sigmoid": ANY, "other": None, "dim": 0},
    "AsDiscrete": {"argmax": ANY, "threshold": ANY, "to_onehot": None, "rounding": None},
    "Invert": {
        **{"nearest_interp": ANY, "post_func": None},
        **_unused("transform", "orig_keys", "meta_keys", "orig_meta_keys", "meta_key_postfix"),
        **_unused("to_tensor", "device"),
    },
    "SaveImage": {
        **{"resample": ANY, "mode": ANY},
        **_unused("output_dir", "output_postfix", "output_ext", "padding_mode", "writer", "dtype"),
        **_unused("separate_folder", "print_log", "data_root_dir", "meta_keys", "scale"),
        **_unused("meta_key_postfix", "output_dtype", "squeeze_end_dims", "output_format"),
        **_unused("folder_layout", "savepath_in_metadict", "output_name_formatter"),
    },
}
INFERER: dict[str, Any] = {
    **{"roi_size": ANY, "overlap": ANY, "mode": ANY, "sigma_scale": ANY},
    **{"padding_mode": "constant", "cval": 0.0, "with_coord": False},
    **_unused("sw_batch_size", "sw_device", "device", "progress", "cache_roi_weight_map"),
    **_unused("cpu_thresh", "buffer_steps", "buffer_dim"),
}
SLIDING = {"SlidingWindowInferer": INFERER}

_ORDERS = {"bilinear": 1, "nearest": 0}


@dataclass
class Preparation:
    """What the pre-transforms do to a scan.

    Attributes:
        order: the steps that change values or grid, as the bundle has them.
    """

    orientation: str | None = None
    spacing: list[float] | None = None
    resampling: int = 1
    normalisation: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    crop: dict[str, Any] | None = None
    order: list[str] = field(default_factory=list)


@dataclass
class Finish:
    """What the post-transforms do to the logits.

    Attributes:
        answer: the handler's "answer" setting.
        invert_at: what is taken back to the scan's own grid: "logits", "softmax", "sigmoid" or
            "mask".
        nearest: whether by the nearest neighbour, otherwise linearly.
    """

    answer: dict[str, Any] = field(default_factory=dict)
    invert_at: str | None = None
    nearest: bool = False


def _known(target: str, known: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The name in ``known`` of a ``_target_``, without "monai." and the "d" of dictionaries."""
    package, _, name = target.rpartition(".")
    if package.partition(".")[0] not in ("", "monai"):
        return None
    return next((n for n in (name, name[:-1], name.removesuffix("Dict")) if n in known), None)


def unused(target: str) -> set[str]:
    """The arguments of a component that change nothing here."""
    tables = (PREPARING, FINISHING, SLIDING)
    found = [{**_COMMON, **table[n]} for table in tables if (n := _known(target, table))]
    return {key for table in found for key, value in table.items() if value is UNUSED}


def component(facts: Facts, known: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of a mapping with ``_target_``, without "monai." and the "d" of dictionaries.

    Raises:
        UnsupportedLayout: not on the list, or an argument that is not, or not of that value.
    """
    target = facts.text("_target_")
    short = _known(target, known)
    if short is None:
        raise facts.wrong("_target_", target, f"one of MONAI's {', '.join(known)}")
    if facts.data.get("_mode_", "default") != "default":
        raise facts.wrong("_mode_", facts.data["_mode_"], "default")
    allowed = {**_COMMON, **known[short]}
    for key, value in facts.data.items():
        if key.startswith("_"):
            continue
        if key not in allowed:
            raise UnsupportedLayout(
                facts.path,
                f"{facts.place}: {short}'s argument {key!r} is not one that the kit knows",
            )
        usual = allowed[key] if isinstance(allowed[key], tuple) else (allowed[key],)
        if allowed[key] is not ANY and value not in (*usual, *([u] for u in usual)):
            shown = " or ".join(map(repr, usual))
            raise facts.wrong(key, value, f"{shown}, all that the kit's handler does")
    return short


def transforms(section: Facts) -> list[Facts]:
    """The steps of a Compose, or of a bare list under "transforms"."""
    steps = section.data.get("transforms")
    if not isinstance(steps, list):
        raise section.wrong("transforms", steps, "a list")
    return [Facts(section.path, s, f"{section.place}.transforms[{i}]") for i, s in enumerate(steps)]


def preparation(section: Facts, channels: int) -> Preparation:
    """The pre-transforms of scans with ``channels`` channels."""
    found, image = Preparation(), None
    for step in transforms(section):
        kind = component(step, PREPARING)
        keys = step.data.get("keys", "image")
        keys = [keys] if isinstance(keys, str) else list(keys)
        image = image or str(keys[0])
        if image not in keys:
            continue
        _prepare(found, kind, _of_key(step, keys.index(image), len(keys)), channels)
    return found


def _of_key(step: Facts, index: int, count: int) -> Facts:
    """The step with one value where arguments list one per key."""
    picked = {
        key: value[index]
        if key in ("mode", "padding_mode", "align_corners") and isinstance(value, list)
        else value
        for key, value in step.data.items()
    }
    return Facts(step.path, picked, step.place)


def _prepare(found: Preparation, kind: str, step: Facts, channels: int) -> None:
    if kind == "Orientation":
        if set(found.order) & {"spacing", "crop"}:
            raise step.wrong("_target_", "Orientationd", "it before Spacingd and CropForegroundd")
        found.orientation = step.text("axcodes")
        _once(found, step, "orientation")
    elif kind == "Spacing":
        pixdim = step.data.get("pixdim")
        pixdim = [pixdim] * 3 if isinstance(pixdim, int | float) else pixdim
        if "crop" in found.order:
            raise step.wrong("_target_", "Spacingd", "CropForegroundd after Spacingd")
        found.spacing = Facts(step.path, {"pixdim": pixdim}, step.place).numbers("pixdim", (3,))
        mode = step.data.get("mode", "bilinear")
        if mode not in _ORDERS:
            raise step.wrong("mode", mode, " or ".join(_ORDERS))
        found.resampling = _ORDERS[mode]
        _once(found, step, "spacing")
    elif kind in ("ScaleIntensityRange", "ScaleIntensity", "NormalizeIntensity"):
        found.normalisation = _normalisation(kind, step, channels)
        _once(found, step, "normalise")
    elif kind == "CropForeground":
        margin = step.data.get("margin", 0)
        margin = [margin] * 3 if isinstance(margin, int) else margin
        found.crop = {
            "margin": [int(m) for m in margin],
            "select": "> 0",
            "allow_smaller": step.yes("allow_smaller", False),
        }
        _once(found, step, "crop")


def _once(found: Preparation, step: Facts, name: str) -> None:
    if name in found.order:
        raise step.wrong("_target_", step.data["_target_"], "each kind of step once")
    found.order.append(name)


def _normalisation(kind: str, step: Facts, channels: int) -> dict[str, Any]:
    if kind == "ScaleIntensityRange":
        numbers: dict[str, Any] = {k: step.number(k) for k in ("a_min", "a_max")}
        numbers |= {k: step.number(k) for k in ("b_min", "b_max")}
        return {"kind": "scale_range", **numbers, "clip": step.yes("clip", False)}
    if channels > 1 and not step.yes("channel_wise", False):
        raise step.wrong("channel_wise", False, f"true for {channels} channels")
    if kind == "ScaleIntensity":
        return {"kind": "rescale_0_1"}
    given = [step.data.get(key) for key in ("subtrahend", "divisor")]
    nonzero = step.yes("nonzero", False)
    if given == [None, None]:
        return {"kind": "zscore_nonzero" if nonzero else "zscore"}
    if nonzero:
        raise step.wrong("nonzero", True, "false where subtrahend and divisor are given")
    mean, deviation = step.number("subtrahend"), step.number("divisor")
    ends = {"a_min": mean, "a_max": mean + deviation, "b_min": 0.0, "b_max": 1.0}
    return {"kind": "scale_range", **ends, "clip": False}


def finish(section: Facts) -> Finish:
    """The post-transforms, up to where the mask is saved."""
    found, stage, nearest_save = Finish(), "logits", True
    for step in transforms(section):
        kind = component(step, FINISHING)
        if kind == "Activations":
            stage = "softmax" if _flag(step, "softmax") else "sigmoid"
        elif kind == "AsDiscrete":
            found.answer = _answer(step, stage)
            stage = "mask"
        elif kind == "Invert":
            found.invert_at, found.nearest = stage, step.yes("nearest_interp", True)
            if stage == "mask" and not found.nearest:
                raise step.wrong("nearest_interp", False, "true where a mask is inverted")
        elif kind == "SaveImage" and found.invert_at is None:
            if step.data.get("resample", True) is not True:
                raise step.wrong(
                    "resample", False, "true, or Invertd before: masks on the scan's grid"
                )
            nearest_save = step.data.get("mode", "nearest") == "nearest"
            found.invert_at, found.nearest = stage, nearest_save
    if not found.answer:
        raise section.wrong("transforms", None, "AsDiscreted with argmax or threshold")
    found.invert_at = found.invert_at or "mask"
    return found


def _flag(step: Facts, key: str) -> bool:
    value = step.data.get(key, False)
    return bool(value[0] if isinstance(value, list) and value else value)


def _answer(step: Facts, stage: str) -> dict[str, Any]:
    if _flag(step, "argmax"):
        return {"kind": "argmax"}
    threshold = step.data.get("threshold")
    threshold = threshold[0] if isinstance(threshold, list) and threshold else threshold
    if not isinstance(threshold, int | float) or not 0 < threshold < 1 or stage != "sigmoid":
        raise step.wrong("threshold", threshold, "a share between 0 and 1, after a sigmoid")
    return {"kind": "sigmoid_threshold", "threshold": float(threshold)}


def windows(section: Facts) -> tuple[list[int], dict[str, Any]]:
    """The inferer's patch, and the handler's "windows" setting."""
    component(section, SLIDING)
    roi = section.data.get("roi_size")
    roi = [roi] * 3 if isinstance(roi, int) else roi
    patch = Facts(section.path, {"roi_size": roi}, section.place).sizes("roi_size", (3,))
    overlap, sigma = section.data.get("overlap", 0.25), section.data.get("sigma_scale", 0.125)
    shares = [s[0] if isinstance(s, list) and len(set(s)) == 1 else s for s in (overlap, sigma)]
    for key, share in zip(("overlap", "sigma_scale"), shares, strict=True):
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise section.wrong(key, share, "one share from 0 to below 1 for all axes")
    mode = section.data.get("mode", "constant")
    if mode not in ("constant", "gaussian"):
        raise section.wrong("mode", mode, "constant or gaussian")
    found = {"overlap": float(shares[0]), "gaussian": mode == "gaussian", "sigma": float(shares[1])}
    return patch, {**found, "mirror": []}
