"""What detectors of other projects answer: a module for each layout, and a line in the table."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.errors import KitError

if TYPE_CHECKING:
    from repack.tasks.detection.layouts.base import Layout, Probe, Rows

LAYOUTS = {
    "anchor-free": "anchor_free:AnchorFree",
    "objectness": "objectness:Objectness",
    "yolox": "yolox:YOLOX",
    "end-to-end": "end_to_end:EndToEnd",
    "queries": "queries:Queries",
    "detr": "detr:Detr",
    "listed": "listed:Listed",
}
"""By the value of ``--layout`` its class, in the order in which they are tried."""


def named(name: str) -> Layout:
    """The layout of this name."""
    module, _, kind = LAYOUTS[name].partition(":")
    found: Layout = getattr(import_module(f"{__name__}.{module}"), kind)()
    return found


def found(path: Path, asked: str, probe: Probe) -> tuple[Layout, Rows]:
    """The layout of a model's answers, and the module that makes rows of them.

    Args:
        asked: a key of ``LAYOUTS``, or "auto" to tell by the shapes.

    Raises:
        KitError: none fits, or not the one that was asked for; the line says what came.
    """
    tried = [named(name) for name in (LAYOUTS if asked == "auto" else [asked])]
    for layout in tried:
        rows = layout.fit(probe)
        if rows is not None:
            return layout, rows
    known = "; ".join(f"{one.name} {one.shown}" for one in tried)
    raise KitError(
        f"{path}: answers {probe.shown} to a picture of {probe.sides[0]}x{probe.sides[1]}, which "
        f"is no detector's layout that the kit knows ({known}): use --task tensors"
    )
