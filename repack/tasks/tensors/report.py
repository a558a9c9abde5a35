"""The report's part of a model that the kit knows no task of: raw tensors in, raw tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from handlers.runtimes.base import Runtime
from repack.model import Model
from repack.tasks import reporting

if TYPE_CHECKING:
    from repack.gate import Reference


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """None beside the outputs' own."""
    return {}


def unchecked(figures: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """What the gate could not compare."""
    why = "raw outputs are compared; the kit knows no measure of this model's task."
    return [reporting.note("What the figures mean", why)]


def headline(figures: Mapping[str, Any]) -> dict[str, str] | None:
    """None: the page shows the outputs' error."""
    return None


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """None: what raw tensors show is not known."""
    return {"none": "raw tensors have no pictures"}
