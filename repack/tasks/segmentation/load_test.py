"""What the load tester does with a segmentation model: volumes in, masks out on the same grid,
drawn in three planes side by side with the voxels that differ."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.errors import ItemError, KitError
from repack.tasks.load_test import Answers, Inputs, LoadTest, Usual, new_figure, save

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from handlers.volumes.geometry import Geometry, Layout, Volume

    Mask = NDArray[np.integer[Any]]
    Plane = NDArray[np.float32]

GZIP = "application/gzip"
"""Media type of a mask: a packed NIfTI file."""
PANEL_INCHES = 4.2
"""Width of one picture on the sheet."""
PLANES = ("axial", "coronal", "sagittal")
"""The planes across the axes z, y and x of the array."""
COLOURS = ("#1fa3ff", "#ff4b3e", "#ffd23f", "#5bd66b", "#c77dff", "#ff9f1c")
"""Of the label values 1, 2, ..., then again from the start."""
DIFFERENT = "#ff00ff"


class SegmentationLoadTest(LoadTest):
    """The hooks of a model that answers a volume with a mask; a zip holds a DICOM series."""

    suffixes = (".nii", ".nii.gz", ".mha", ".nrrd", ".zip")
    usual = Usual(concurrency="1,4", requests=8, warmup=1, accept=GZIP, timeout=600.0)
    drawn = 1

    def what_is_wrong_with_input(self, data: bytes) -> str | None:
        return None if grid(data) else "no volume that the kit can read"

    def what_is_wrong(self, accept: str, answer: bytes, request: bytes) -> str | None:
        if accept == GZIP:
            return what_is_wrong_with_mask(answer, request)
        return super().what_is_wrong(accept, answer, request)

    def side_by_side(self, inputs: Inputs, answers: Answers, path: Path) -> list[str]:
        modes = list(answers)
        read = {mode: [_mask(mode, answer) for answer in answers[mode]] for mode in modes}
        columns = len(modes) + (len(modes) > 1)
        count = len(read[modes[0]])
        figure = new_figure(PANEL_INCHES * columns, 3 * PANEL_INCHES * count)
        panels = figure.subplots(3 * count, columns, squeeze=False)
        for i in range(count):
            name, data = inputs[i]
            found = {mode: read[mode][i] for mode in modes}
            _draw(panels[3 * i : 3 * i + 3], name, volume(data), found)
        save(figure, path)
        return [*_agreements(read), f"masks: {path}"]


HOOKS = SegmentationLoadTest()


class _Seen(Exception):
    """Ends the reading of a volume once its header is known."""

    def __init__(self, geometry: Geometry):
        super().__init__("the header is known")
        self.geometry = geometry


def _stop(layout: Layout) -> None:
    raise _Seen(layout.geometry)


def grid(data: bytes) -> Geometry | None:
    """The grid that a volume's header gives; None where the kit's readers refuse it."""
    from handlers.volumes import reading

    try:
        reading.read(data, _stop)
    except _Seen as seen:
        return seen.geometry
    except ItemError:
        return None
    return None


def what_is_wrong_with_mask(answer: bytes, request: bytes) -> str | None:
    """None for a whole NIfTI mask on the request's own grid, else one line about what came."""
    asked = grid(request)
    if asked is None:
        return None  # no volume that the readers know: there is no grid to compare with
    try:
        gzip.decompress(answer)  # to the end, where its checksum is
    except (OSError, EOFError, zlib.error) as e:
        return f"no gzip file ({len(answer)} bytes, {e})"
    found = grid(answer)
    if found is None:
        return f"no NIfTI mask ({len(answer)} bytes)"
    if not found.same_grid(asked):
        shapes = ("x".join(map(str, reversed(g.shape))) for g in (found, asked))
        return "a mask of {} voxels on another grid than the scan's {}".format(*shapes)
    return None


def volume(data: bytes) -> Volume:
    """A volume with its voxels, whatever its size; raises ``ItemError``."""
    from handlers.volumes import reading

    return reading.read(data, lambda layout: None)


def dice(a: Mask, b: Mask, value: int) -> float:
    """Dice's coefficient of the voxels with ``value``: 1 where neither mask has any."""
    first, second = a == value, b == value
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else 1.0


def _mask(mode: str, answer: bytes) -> Mask:
    import numpy as np

    try:
        return np.asarray(volume(answer).data[0], np.int32)
    except ItemError as e:
        raise KitError(f"--vis 1 draws masks, but {mode} answered none: {e}") from None


def _draw(panels: Any, name: str, scan: Volume, found: Mapping[str, Mask]) -> None:
    """One scan: three rows of panels."""
    import numpy as np

    data, spacing = scan.data[0], scan.geometry.spacing
    modes = list(found)
    low, high = np.percentile(data[:: max(1, len(data) // 32)], (1, 99.5))
    centre = _centre(found[modes[0]])
    for axis, plane in enumerate(PLANES):
        height, width = (spacing[other] for other in range(3) if other != axis)
        grey = _cut(data, axis, centre)
        pictures = [(mode[2:], _cut(found[mode], axis, centre)) for mode in modes]
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
    import numpy as np

    return np.asarray(np.take(volume, centre[axis], axis))


def _painted(grey: Plane, mask: Mask, low: float, high: float) -> NDArray[np.float64]:
    """``[H, W, 3]`` in 0..1: the scan in grey, labels over it in colour, -1 as a difference."""
    import numpy as np
    from matplotlib.colors import to_rgb

    picture = ((grey - low) / max(high - low, 1e-6)).clip(0, 1)[..., None].repeat(3, 2)
    for value in np.unique(mask[mask != 0]):
        colour = DIFFERENT if value < 0 else COLOURS[(int(value) - 1) % len(COLOURS)]
        where = mask == value
        picture[where] = 0.35 * picture[where] + 0.65 * np.array(to_rgb(colour))
    return np.asarray(picture, np.float64)


def _agreements(read: Mapping[str, Sequence[Mask]]) -> list[str]:
    """Dice per label value of every mode against the last."""
    import numpy as np

    *others, last = read
    lines = []
    for mode in others:
        pairs = list(zip(read[mode], read[last], strict=True))
        values = sorted({int(v) for pair in pairs for mask in pair for v in np.unique(mask)} - {0})
        shares = [f"label {v} {min(dice(a, b, v) for a, b in pairs):.4f}" for v in values]
        apart = sum(int((a != b).sum()) for a, b in pairs)
        total = sum(a.size for a, _ in pairs)
        lines.append(
            f"{mode} and {last}: Dice {', '.join(shares or ['no label in either'])}; "
            f"{apart} of {total} voxels differ"
        )
    return lines
