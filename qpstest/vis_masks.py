"""What each mode's mask looks like on the same scan: three planes, side by side, and where they
differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import ItemError, KitError
from qpstest import masks
from qpstest.options import LABELS

SCANS_SHOWN = 1
PANEL_INCHES = 4.2
"""Width of one picture on the sheet."""
PLANES = ("axial", "coronal", "sagittal")
"""The planes across the axes z, y and x of the array."""
COLOURS = ("#1fa3ff", "#ff4b3e", "#ffd23f", "#5bd66b", "#c77dff", "#ff9f1c")
"""Of the label values 1, 2, ..., then again from the start."""
DIFFERENT = "#ff00ff"

Mask = NDArray[np.integer[Any]]
Plane = NDArray[np.float32]


def side_by_side(
    inputs: Sequence[tuple[str, bytes]], answers: Mapping[int, Sequence[bytes]], path: Path
) -> list[str]:
    """Draw the first scans' masks to ``path``: a row per plane, a column per mode, and one for the
    voxels in which the first and the last mode differ.

    Returns:
        lines for the screen: how far the modes agree, and where the sheet is.

    Raises:
        KitError: an answer is no mask, matplotlib is missing, or ``path`` cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as e:
        raise KitError(f"--vis: {e}: pip install matplotlib") from None
    modes = sorted(answers)
    read = {mode: [_mask(mode, answer) for answer in answers[mode]] for mode in modes}
    columns = len(modes) + (len(modes) > 1)
    count = len(read[modes[0]])
    figure = Figure(
        figsize=(PANEL_INCHES * columns, 3 * PANEL_INCHES * count), layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(3 * count, columns, squeeze=False)
    for i in range(count):
        name, data = inputs[i]
        scan = masks.volume(data)
        found = {mode: read[mode][i] for mode in modes}
        _draw(panels[3 * i : 3 * i + 3], name, scan.data[0], scan.geometry.spacing, found)
    try:
        figure.savefig(path, dpi=110, format="png")
    except OSError as e:
        raise KitError(f"--vis-out {path} cannot be written: {e.strerror}") from None
    return [*_agreements(read), f"masks: {path}"]


def _mask(mode: int, answer: bytes) -> Mask:
    try:
        return np.asarray(masks.volume(answer).data[0], np.int32)
    except ItemError as e:
        raise KitError(f"--vis 1 draws masks, but {LABELS[mode]} answered none: {e}") from None


def _draw(
    panels: Any, name: str, scan: Plane, spacing: Sequence[float], found: Mapping[int, Mask]
) -> None:
    """One scan: three rows of panels."""
    modes = sorted(found)
    low, high = np.percentile(scan[:: max(1, len(scan) // 32)], (1, 99.5))
    centre = _centre(found[modes[0]])
    for axis, plane in enumerate(PLANES):
        height, width = (spacing[other] for other in range(3) if other != axis)
        grey = _cut(scan, axis, centre)
        pictures = [(f"{LABELS[m][2:]}", _cut(found[m], axis, centre)) for m in modes]
        if len(modes) > 1:
            first, last = pictures[0][1], pictures[-1][1]
            pictures.append(("different voxels", np.where(first != last, -1, 0)))
        for panel, (title, mask) in zip(panels[axis], pictures, strict=True):
            panel.imshow(
                _painted(grey, mask, float(low), float(high)),
                aspect=height / width,
                origin="lower" if axis else "upper",
                interpolation="nearest",
            )
            panel.set_title(f"{title}\n{name}, {plane} {centre[axis]}", fontsize=10)
            panel.axis("off")


def _centre(mask: Mask) -> tuple[int, int, int]:
    """For each axis the plane with the most labelled voxels; the middle where there are none."""
    z, y, x = (
        int(counts.argmax()) if counts.any() else len(counts) // 2
        for counts in ((mask > 0).sum(others) for others in ((1, 2), (0, 2), (0, 1)))
    )
    return z, y, x


def _cut(volume: NDArray[Any], axis: int, centre: Sequence[int]) -> NDArray[Any]:
    return np.asarray(np.take(volume, centre[axis], axis))


def _painted(grey: Plane, mask: Mask, low: float, high: float) -> NDArray[np.float64]:
    """``[H, W, 3]`` in 0..1: the scan in grey, labels over it in colour, -1 as a difference."""
    from matplotlib.colors import to_rgb

    picture = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)[..., None].repeat(3, 2)
    for value in np.unique(mask[mask != 0]):
        colour = DIFFERENT if value < 0 else COLOURS[(int(value) - 1) % len(COLOURS)]
        where = mask == value
        picture[where] = 0.35 * picture[where] + 0.65 * np.array(to_rgb(colour))
    return np.asarray(picture, np.float64)


def _agreements(read: Mapping[int, Sequence[Mask]]) -> list[str]:
    """Dice per label value of every mode against the last."""
    modes = sorted(read)
    lines = []
    for mode in modes[:-1]:
        pairs = list(zip(read[mode], read[modes[-1]], strict=True))
        values = sorted({int(v) for pair in pairs for mask in pair for v in np.unique(mask)} - {0})
        shares = [
            f"label {v} {min(masks.dice(a, b, v) for a, b in pairs):.4f}" for v in values
        ] or ["no label in either"]
        apart = sum(int((a != b).sum()) for a, b in pairs)
        total = sum(a.size for a, _ in pairs)
        lines.append(
            f"{LABELS[mode]} and {LABELS[modes[-1]]}: Dice {', '.join(shares)}; "
            f"{apart} of {total} voxels differ"
        )
    return lines
