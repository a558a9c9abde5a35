"""Names and numbers as the page writes them."""

from __future__ import annotations

from typing import Any

RUNTIMES = {
    "aotinductor": "AOTInductor",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
    "torch2trt": "torch2trt",
    "torchscript": "TorchScript",
}

FIGURES = {
    "max_abs": "largest difference",
    "max_rel": "largest relative difference",
    "relative_l2": "relative L2 error",
    "boxes_compared": "boxes compared",
    "boxes_matched": "boxes with a partner",
    "largest_shift": "largest shift of a corner",
    "largest_confidence_difference": "largest difference in confidence",
    "dice": "Dice",
    "hd95": "HD95",
}
"""Keys of report.json, without their unit, in words; others have spaces for underscores."""

UNITS = {"px": "px", "mm": "mm", "ms": "ms", "ml": "ml", "mm3": "mm³", "voxels": "voxels"}


def runtime(key: str) -> str:
    """A runtime's own spelling."""
    return RUNTIMES.get(key, key)


def form(backend: str, precision: str, via: str | None = None) -> str:
    """A candidate's name, with the road to it where there are several."""
    return f"{runtime(backend)}{f' by {via}' if via else ''} {precision}"


def figure(key: str) -> str:
    """A figure's name, its unit last."""
    name, unit = name_and_unit(key)
    return f"{name}, {unit}" if unit else name


def name_and_unit(key: str) -> tuple[str, str]:
    """A figure's name and its unit, empty where it has none."""
    words = str(key).split("_")
    unit = UNITS.get(words[-1], "") if len(words) > 1 else ""
    name = "_".join(words[:-1]) if unit else str(key)
    return FIGURES.get(name, name.replace("_", " ")), unit


SHARES = {"boxes_matched", "same_first_class"}
"""Figures that are shares of 1 and shown in percent."""


PLACES = {"dice": 4, "hd95_mm": 2, "hd95_voxels": 2}
"""Decimal places of figures that are read one below the other."""


def value(key: str, given: Any) -> str:
    """A figure, in percent where it is a share."""
    if key in SHARES and isinstance(given, (int, float)):
        return f"{given:.1%}"
    if key in PLACES and isinstance(given, (int, float)):
        return f"{given:.{PLACES[key]}f}"
    return number(given)


def number(value: Any) -> str:
    """A figure to three digits; what is no number as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    if value and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def size(count: int) -> str:
    """Bytes as MB or kB of a thousand each."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def listing(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def count(given: dict[str, int]) -> str:
    """ "3 random inputs and 12 samples"."""
    names = {"random": "random inputs", "samples": "samples"}
    return listing([f"{n:,} {names.get(kind, kind)}" for kind, n in given.items() if n])
