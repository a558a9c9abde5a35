"""A semantic segmentation net's part of the report: its limits, what was not compared, and its
label maps as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from handlers.runtimes.base import Runtime
from handlers.semantic import LabelMap, colour, draw
from repack.model import Arrays, Model
from repack.tasks import reporting
from repack.tasks.semantic import compare

if TYPE_CHECKING:
    from repack.gate import Reference

DIFFERENT = (255, 0, 255)


def limits(precision: str) -> dict[str, dict[str, Any]]:
    """The gate's limits by figure, see ``repack.report.facts``."""
    return {
        "pixel_agreement": {"least": compare.AGREE[precision]},
        "mean_iou": {"least": compare.IOU[precision]},
        "miou": {"points_lost": compare.POINTS[precision]},
    }


def unchecked(figures: Mapping[str, Any], samples: int) -> list[dict[str, Any]]:
    """What the gate could not compare.

    Args:
        figures: the task's part of the gate's result.
        samples: how many were compared.
    """
    if isinstance(figures.get("miou"), dict):
        return []
    why = "the answers are compared with the original's, not with true classes"
    put = "put a PNG of classes beside each of --samples to have both models' mIoU compared"
    return [reporting.note("Accuracy", f"{why}; {put}.")]


def headline(figures: Mapping[str, Any]) -> dict[str, str] | None:
    """The figure that says most: ``{"name", "value", "note"}``; None where there is none."""
    scores, same = figures.get("miou"), figures.get("pixel_agreement")
    if isinstance(scores, dict):
        note = f"original {scores['original']:.4f}, {scores['labelled_samples']} samples"
        return {"name": "accuracy", "value": f"mIoU {scores['converted']:.4f}", "note": note}
    if isinstance(same, float):
        note = f"{figures['pixels_compared']:,} compared"
        return {"name": "agreement", "value": f"{same:.2%} of pixels alike", "note": note}
    return None


def pictures(model: Model, runtime: Runtime, reference: Reference) -> dict[str, Any]:
    """Both models' label maps and where they differ, see ``repack.tasks.reporting.most_differing``.

    Returns:
        The same with ``"legend": {"classes": [{"label", "colour": "#rrggbb"}]}`` of what it shows.
    """
    name, names = model.outputs[0].name, model.source.labels

    def compared(given: Arrays, want: Arrays, have: Arrays) -> dict[str, Any]:
        pixels = given[model.inputs[0].name][0]
        size = pixels.shape[0], pixels.shape[1]
        one, two = (compare.at_pictures_size(model, a[name][0], size) for a in (want, have))
        apart = one != two
        shown = pixels // 3
        shown[apart] = DIFFERENT
        return {
            "differs": float(apart.sum()),
            "note": f"{int(apart.sum()):,} of {apart.size:,} pixels differ; the model's input of "
            f"{size[1]} x {size[0]} px",
            "classes": np.union1d(one, two).tolist(),
            "pictures": [
                *(
                    {
                        "label": label,
                        "note": _largest(found, names),
                        "pixels": reporting.small(draw(pixels, found, names))[0],
                    }
                    for label, found in (("original", one), ("converted", two))
                ),
                {"label": "difference", "note": "in magenta", "pixels": reporting.small(shown)[0]},
            ],
        }

    found = reporting.most_differing("boxes", compared, runtime, reference)
    seen = sorted({i for sample in found.get("samples", []) for i in sample.pop("classes")})
    legend = [{"label": names[i], "colour": "#{:02x}{:02x}{:02x}".format(*colour(i))} for i in seen]
    return found | ({"legend": {"classes": legend}} if "samples" in found else {})


def _largest(found: LabelMap, names: tuple[str, ...]) -> str:
    counts = np.bincount(found.reshape(-1), minlength=len(names))
    first = [int(i) for i in np.argsort(-counts, kind="stable")[:3] if counts[i]]
    return ", ".join(f"{names[i]} {counts[i] / found.size:.1%}" for i in first)
