"""How a picture is fitted into a model's input."""

from __future__ import annotations

from typing import NamedTuple

MODES = ("letterbox", "corner", "stretch")
"""How a picture is fitted into a model's input: centred on grey, at the left and the top of grey,
or each side for itself."""


class Letterbox(NamedTuple):
    """How a picture lies in the model's input: ``model = picture * scale + (left, top)``."""

    scale_x: float
    scale_y: float
    left: int
    top: int


def placed(
    size: tuple[int, int], into: tuple[int, int], mode: str = "letterbox"
) -> tuple[Letterbox, int, int]:
    """Where a picture comes to lie, and its height and width there, pixels.

    Args:
        size: the picture's own height and width.
        into: those of the model's input.
        mode: one of ``MODES``.
    """
    (h, w), (height, width) = size, into
    if mode == "stretch":
        return Letterbox(width / w, height / h, 0, 0), height, width
    scale = min(height / h, width / w)
    new_h, new_w = max(1, round(h * scale)), max(1, round(w * scale))
    if mode == "corner":
        return Letterbox(scale, scale, 0, 0), new_h, new_w
    if mode != "letterbox":
        raise ValueError(f"resize mode {mode!r}; known: {', '.join(MODES)}")
    return Letterbox(scale, scale, (width - new_w) // 2, (height - new_h) // 2), new_h, new_w
