"""An importable ``torchvision`` for the reference environment."""

from __future__ import annotations

import sys
from pathlib import Path

NMS = """
import torch


def nms(boxes, scores, iou_threshold):
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    waiting = scores.argsort(descending=True, stable=True).tolist()
    kept = []
    while waiting and len(kept) < 300:  # the package keeps the first 300 of them
        best, rest = waiting[0], torch.tensor(waiting[1:], dtype=torch.long)
        kept.append(best)
        top_left = torch.maximum(boxes[best, :2], boxes[rest, :2])
        bottom_right = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = (bottom_right - top_left).clamp(min=0).prod(1)
        overlap = shared / (area[best] + area[rest] - shared)
        waiting = rest[~(overlap > iou_threshold)].tolist()
    return torch.tensor(kept, dtype=torch.long)
"""


def stand_in_for_torchvision(folder: Path) -> None:
    """An importable ``torchvision``: there is none for this CPU torch.

    The package only imports it, apart from ``torchvision.ops.nms``: the greedy suppression of one
    list of boxes, written here from its documentation. Everything around it (which boxes enter, in
    which form, which classes meet, how many stay) remains the package's own.
    """
    package = folder / "torchvision"
    for name in ("datasets", "transforms", "ops"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "transforms" / "functional.py").touch()
    (package / "datasets" / "__init__.py").write_text("class ImageFolder:\n    pass\n")
    (package / "ops" / "__init__.py").write_text(NMS)
    (package / "__init__.py").write_text(
        '__version__ = "0.28.0"\nfrom torchvision import datasets, ops, transforms\n'
    )
    info = folder / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    sys.path.insert(0, str(folder))
