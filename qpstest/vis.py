"""What each mode detects in the same pictures, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest.options import LABELS

PICTURES_SHOWN = 3
PANEL_INCHES = 6.4
"""Width of one picture on the sheet."""
SAME_BOX = 0.5
"""Intersection over union from which two boxes of a class are the same detection."""


@dataclass(frozen=True)
class Agreement:
    """How two modes' detections in one picture compare.

    Attributes:
        matched: detections of one class and place that both have.
        alone: detections that only one of them has.
        pixels: largest difference of a matched box's coordinates.
        confidence: largest difference of a matched confidence.
    """

    matched: int
    alone: int
    pixels: float
    confidence: float


def side_by_side(
    inputs: Sequence[tuple[str, bytes]], answers: Mapping[int, Sequence[bytes]], path: Path
) -> list[str]:
    """Draw the first pictures to ``path``, one row each, one column for each mode.

    Returns:
        lines for the screen: how far the modes agree, and where the sheet is.

    Raises:
        KitError: the answers hold no detections, matplotlib is missing, or ``path`` cannot be
            written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise KitError(f"--vis: {e}: pip install matplotlib") from None
    from handlers import drawing, images

    parsed = {mode: [_parse(mode, a) for a in of_mode] for mode, of_mode in answers.items()}
    modes = sorted(parsed)
    pictures = [images.decode(data) for _, data in inputs[: len(parsed[modes[0]])]]
    heights = [PANEL_INCHES * p.shape[0] / p.shape[1] + 0.5 for p in pictures]
    figure = Figure(figsize=(PANEL_INCHES * len(modes), sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(
        len(pictures), len(modes), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for row, picture in enumerate(pictures):
        for column, mode in enumerate(modes):
            answer = parsed[mode][row]
            panel = panels[row][column]
            panel.imshow(drawing.draw(picture, answer["detections"]))
            panel.set_title(_title(mode, answer, inputs[row][0]), fontsize=11)
            panel.axis("off")
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as e:
        raise KitError(f"--vis-out {path} cannot be written: {e.strerror}") from None
    return [*_agreements(parsed), f"detections: {path}"]


def compare(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> Agreement:
    """Match the detections of two answers, the surest first, each to the best of its class."""
    left = list(theirs)
    matched, pixels, confidence = 0, 0.0, 0.0
    for one in sorted(ours, key=lambda d: -float(d["confidence"])):
        same = [d for d in left if d["class"] == one["class"]]
        best = max(same, key=lambda d: overlap(one["box"], d["box"]), default=None)
        if best is None or overlap(one["box"], best["box"]) < SAME_BOX:
            continue
        left.remove(best)
        matched += 1
        pixels = max(pixels, *(abs(a - b) for a, b in zip(one["box"], best["box"], strict=True)))
        confidence = max(confidence, abs(one["confidence"] - best["confidence"]))
    return Agreement(matched, len(ours) + len(theirs) - 2 * matched, pixels, confidence)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes, 0 to 1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def _agreements(parsed: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[str]:
    modes = sorted(parsed)
    lines = []
    for mode in modes[:-1]:
        last = modes[-1]
        found = [
            compare(a["detections"], b["detections"])
            for a, b in zip(parsed[mode], parsed[last], strict=True)
        ]
        lines.append(
            f"{LABELS[mode]} and {LABELS[last]}: {sum(f.matched for f in found)} detections "
            f"matched, {sum(f.alone for f in found)} without a partner, boxes within "
            f"{max(f.pixels for f in found):.2f} px, confidences within "
            f"{max(f.confidence for f in found):.4f}"
        )
    return lines


def _parse(mode: int, answer: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(answer)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("detections"), list):
        raise KitError(f"--vis 1 draws detections, but the answer of {LABELS[mode]} holds none")
    return parsed


def _title(mode: int, answer: Mapping[str, Any], name: str) -> str:
    runtime = answer.get("runtime") or {}
    how = " ".join(str(runtime[k]) for k in ("name", "precision") if runtime.get(k))
    count = len(answer["detections"])
    return f"{LABELS[mode][2:]}: {how}, {count} detection{'' if count == 1 else 's'}\n{name}"
