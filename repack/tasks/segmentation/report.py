"""A segmentation's part of the report: its limits, what was not compared, its masks as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers.runtimes.base import Runtime
from repack.model import Arrays, Model
from repack.tasks import reporting
from repack.tasks.segmentation import compare, planes

if TYPE_CHECKING:
    from repack.gate import Reference


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``; the surfaces' is in its result."""
    return {"dice": {"least": compare.DICE[precision]}}


def unchecked(figures: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """What the gate could not compare.

    Args:
        figures: the task's part of the gate's result.
        samples: how many windows were compared.
    """
    why = "Dice and Hausdorff distance are against the original, not against a person's masks."
    notes = [reporting.note("Accuracy", why)]
    if covered := figures.get("never_in_a_mask"):
        why = (
            "wherever the original finds it, another label is written over it, so no mask holds "
            "it: in the YAML, answer.order says which label is written over which."
        )
        notes.append(reporting.note(f"Masks of {covered}", why, serious=True))
    return notes


def headline(figures: Mapping[str, Any]) -> dict[str, str] | None:
    """The figure that says most: ``{"name", "value", "note"}``; None where there is none."""
    labels = figures.get("labels") or {}
    known = [f["dice"] for f in labels.values() if isinstance(f.get("dice"), float)]
    if not known:
        return None
    note = f"worst of {len(known)} label{'s' * (len(known) > 1)}"
    return {"name": "agreement", "value": f"Dice {min(known):.4f}", "note": note}


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Both models' masks in three planes, see ``repack.tasks.reporting.most_differing``.

    Returns:
        The same with ``"legend": {pictures: [{"label", "colour": "#rrggbb"}]}`` of what these show.
    """

    def compared(given: Arrays, want: Arrays, have: Arrays) -> dict[str, Any]:
        name = model.outputs[0].name
        masks = [mask(answer[name][0], model.settings) for answer in (want, have)]
        scan = given[model.inputs[0].name][0, 0]
        spacing = model.settings.get("spacing")
        if spacing is not None:
            spacing = spacing[-scan.ndim :]
        cut = planes.cut(scan, masks[0], masks[1], spacing)
        differing = int((masks[0] != masks[1]).sum())
        return {
            "differs": float(differing),
            "note": f"{differing:,} of {masks[0].size:,} voxels differ; one window of the model's "
            "input, first channel, grey from its 1st to its 99th percentile",
            "labels": sorted({value for plane in cut for value in plane.labels}),
            "pictures": [p for plane in cut for p in _shown(plane, "mm" if spacing else "voxels")],
        }

    found = reporting.most_differing("planes", compared, runtime, reference)
    seen = {value for sample in found.get("samples", []) for value in sample.pop("labels")}
    return found | ({"legend": _legend(model, seen)} if "samples" in found else {})


def _shown(plane: planes.Plane, unit: str) -> list[dict[str, Any]]:
    where = f"{plane.extent[0]:g} x {plane.extent[1]:g} {unit}"
    if plane.axis is not None:
        slices = f"slice {plane.place[0] + 1} of {plane.place[1]}"
        where = f"across axis {plane.axis} ({'zyx'[plane.axis]}), {slices}, {where}"
    notes = {"difference": f"{where}; differing voxels: {plane.differing:,}"}
    return [
        {"label": label, "note": notes.get(label, where), "pixels": getattr(plane, label)}
        for label in ("scan", "original", "converted", "difference")
    ]


def _legend(model: Model, seen: set[int]) -> dict[str, list[dict[str, str]]]:
    names = compare.channels(model.settings, model.source.labels)
    named = zip(compare.values(model.settings, len(names)), names, strict=True)
    drawn = {
        "original and converted": [
            (n, planes.colour(value)) for value, n in named if value in seen
        ],
        "difference": [
            ("the original's label is lost or another", planes.MISSED),
            ("a label was added", planes.ADDED),
        ],
    }
    return {
        what: [
            {"label": name, "colour": "#{:02x}{:02x}{:02x}".format(*rgb)} for name, rgb in entries
        ]
        for what, entries in drawn.items()
    }


def mask(logits: NDArray[Any], settings: Mapping[str, Any]) -> NDArray[np.int64]:
    """The labels that the handler would answer for one window.

    Args:
        logits: ``[K, *patch]``.
        settings: the passport's, see "answer" in the README's part on segmentation.
    """
    found: NDArray[np.int64] = compare.drawn(compare.masks(logits[None], settings), settings)[0]
    return found
