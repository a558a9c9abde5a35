"""What ends a detector. A new family is a module here and a line in ``HEADS``, and its part of an
ONNX graph in ``repack.onnx.suppression``; no other module of the handlers knows a family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from handlers.artefact import decoded
from handlers.errors import ArchiveError
from handlers.heads.base import Grid, Head
from handlers.heads.dbnet import DBNet
from handlers.heads.rows import Masked, Oriented, Posed, Ranked, Scored
from handlers.heads.yolov5 import YOLOv5

__all__ = ["HEADS", "SETTING", "Grid", "Head", "before", "of", "required"]

SETTING = "head"
"""The setting of a passport that holds a detector's head."""

HEADS: dict[str, type[Head]] = {
    kind.name: kind for kind in (YOLOv5, Scored, Ranked, Posed, Masked, Oriented, DBNet)
}


def of(settings: Mapping[str, Any]) -> Head | None:
    """The head that a passport's settings name; None for a model that is no detector.

    Raises:
        ArchiveError: a family that this kit does not know, or a key that is missing or unknown.
    """
    if SETTING not in settings:
        return None
    told = settings[SETTING]
    kind = HEADS.get(str(told.get("name"))) if isinstance(told, Mapping) else None
    if kind is None:
        raise ArchiveError(f"the archive's head is {told!r:.60}; known: {', '.join(HEADS)}")
    try:
        found: Head = decoded(kind, {k: v for k, v in told.items() if k != "name"}, "head")
    except ValueError as e:
        raise ArchiveError(f"the passport lacks or misnames a field ({e})") from None
    return found


def required(settings: Mapping[str, Any]) -> Head:
    """As ``of``, for a detector.

    Raises:
        ArchiveError: there is none, too.
    """
    found = of(settings)
    if found is None:
        raise ArchiveError("the passport of a detector names no head: repack it")
    return found


def before(options: Mapping[str, Any], classes: int) -> dict[str, Any]:
    """The setting for a passport of format 1, which knew one family.

    Args:
        options: of its artefact on a GPU, which held anchors and strides; else without them.
    """
    kept = {k: options[k] for k in ("anchors", "strides") if k in options}
    return {"name": YOLOv5.name, "classes": classes, **kept}
