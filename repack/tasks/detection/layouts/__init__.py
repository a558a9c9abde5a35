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
    "anchor-free-points": "anchor_free:AnchorFreePoints",
    "anchor-free-masks": "anchor_free:AnchorFreeMasks",
    "objectness-points": "objectness:ObjectnessPoints",
    "objectness-masks": "objectness:ObjectnessMasks",
    "anchor-free-angle": "angles:AnchorFreeAngle",
    "dbnet": "dbnet:DBNet",
}
"""By the value of ``--layout`` its class, in the order in which they are tried."""


def tasks() -> set[str]:
    """Tasks whose answers begin with boxes."""
    return {named(name).task for name in LAYOUTS}


def named(name: str) -> Layout:
    """The layout of this name."""
    module, _, kind = LAYOUTS[name].partition(":")
    found: Layout = getattr(import_module(f"{__name__}.{module}"), kind)()
    return found


def found(path: Path, asked: str, task: str, probe: Probe) -> tuple[Layout, Rows]:
    """The layout of a model's answers, and the module that makes rows of them.

    Args:
        task: only layouts of this task are tried.
        asked: a key of ``LAYOUTS``, or "auto" to tell by the shapes.

    Raises:
        KitError: none fits, or not the one that was asked for; the line says what came.
    """
    of_task = [layout for layout in map(named, LAYOUTS) if layout.task == task]
    tried = [layout for layout in of_task if asked in ("auto", layout.name)]
    if not tried:
        known = ", ".join(layout.name for layout in of_task)
        raise KitError(f"--layout {asked} is none of --task {task}: there is {known}")
    for layout in tried:
        try:
            rows = layout.fit(probe)
        except KitError as e:
            raise KitError(f"{path}: {e}") from None
        if rows is not None:
            return layout, rows
    known = "; ".join(f"{one.name} {one.shown}" for one in tried)
    odd = any(side % 32 for side in probe.sides)
    at = "; the size is no multiple of 32" if odd else ""
    raise KitError(
        f"{path}: answers {probe.shown} to a picture of {probe.sides[0]}x{probe.sides[1]}, which "
        f"is no layout of --task {task} that the kit knows ({known}){at}: use --task tensors"
    )
