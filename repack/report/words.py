"""Names and numbers as the page writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from repack.backends import title

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
    "map50": "mAP50",
    "map50_95": "mAP50-95",
    "oks_map50": "OKS mAP50",
    "oks_map50_95": "OKS mAP50-95",
    "mask_map50": "mask mAP50",
    "mask_map50_95": "mask mAP50-95",
}
"""Keys of report.json, without their unit, in words; others have spaces for underscores."""

UNITS = {"px": "px", "mm": "mm", "ms": "ms", "ml": "ml", "mm3": "mm³", "voxels": "voxels"}

FORMATS = {
    **dict.fromkeys(("boxes_matched", "same_first_class", "accuracy"), ".1%"),
    **dict.fromkeys((key for key in FIGURES if "map50" in key), ".4f"),
    "dice": ".4f",
    **dict.fromkeys(("hd95_mm", "hd95_voxels"), ".2f"),
}
"""Shares of 1 in percent, and the places of figures that are read one below the other."""


def candidate(given: Mapping[str, Any]) -> str:
    """A candidate's name: backend, the way to it where there are several, and precision."""
    ways = {None: "", "given": " (given as a file)", "onnx": " through ONNX"}
    way = ways.get(given.get("via"), f" through {given.get('via')}")
    return f"{title(given['backend'])}{way} {given['precision']}"


def name_and_unit(key: str) -> tuple[str, str]:
    """A figure's name and its unit, empty where it has none."""
    start, _, end = str(key).rpartition("_")
    name, unit = (start, UNITS[end]) if start and end in UNITS else (str(key), "")
    return FIGURES.get(name, name.replace("_", " ")), unit


def figure(key: str) -> str:
    """A figure's name, its unit last."""
    return ", ".join(filter(None, name_and_unit(key)))


def value(given: Any, key: str) -> str:
    """A figure in its own format."""
    return (
        format(given, FORMATS[key])
        if isinstance(given, float) and key in FORMATS
        else number(given)
    )


def number(given: Any) -> str:
    """A figure to three digits; what is no number as it is."""
    if isinstance(given, bool):
        return "yes" if given else "no"
    if isinstance(given, int):
        return f"{given:,}"
    if not isinstance(given, float):
        return "none" if given is None else str(given)
    if given and abs(given) < 1e-3:
        return f"{given:.2e}"
    return f"{given:.4g}" if abs(given) < 1e4 else f"{given:,.0f}"


def limit(given: Mapping[str, Any] | None, key: str) -> str:
    """A limit of ``repack.report.facts`` in words, without the figure's unit."""
    if not given:
        return "none"
    if "atol" in given:
        return f"at most {number(given['atol'])} + {number(given['rtol'])} x |original|"
    if "points_lost" in given:
        points = f"at most {number(given['points_lost'])} points (hundredths) lost"
        return f"{points}, or {given['or']}" if "or" in given else points
    bound = "at least" if "least" in given else "at most"
    return f"{bound} {value(float(given.get('least', given.get('most'))), key)}"


def size(count: int) -> str:
    """Bytes as MB or kB of a thousand each."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def listing(items: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def inputs(given: Mapping[str, int]) -> str:
    """ "3 random inputs and 12 samples"."""
    names = {"random": "random input", "samples": "sample"}
    counts = [(n, names.get(kind, kind)) for kind, n in given.items() if n]
    return listing([f"{n:,} {name}{'s' if n > 1 else ''}" for n, name in counts])


KINDS = 6
"""Operators that a line names."""


def operators(counts: Mapping[str, int]) -> str:
    """ "Conv x 5, Add"; of many, those that come first."""
    shown = [f"{op} x {n}" if n > 1 else op for op, n in counts.items()]
    more = f" and {len(shown) - KINDS} more kinds" if len(shown) > KINDS else ""
    return ", ".join(shown[:KINDS]) + more


def counted(ops: Sequence[str]) -> str:
    """ "conv2d x 2" for ["aten::conv2d", "aten::conv2d"]."""
    return operators(Counter(op.removeprefix("aten::") for op in ops)) or "none"


def worst(outputs: Mapping[str, Mapping[str, float]]) -> str:
    """The largest relative L2 error of all outputs."""
    return number(
        max((v["relative_l2"] for v in outputs.values() if "relative_l2" in v), default=None)
    )
