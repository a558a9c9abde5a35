"""Compares the kit with what ``make_yolov5_reference.py`` wrote; exit code 3 where it differs.

Runs in the kit's environment, from the project's root:

    python tests/parity/compare_yolov5.py FOLDER

Measures, per checkpoint:

raw     max over all values of |ours - theirs| / max(|theirs|, 1): absolute for scores (0..1),
        relative for coordinates (pixels). Limit 1e-4.
boxes   the kit's numpy suppression on the kit's raw outputs against the package's own: the same
        number of boxes and classes, every corner within 0.5 pixels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from numpy.typing import NDArray

from handlers.boxes import nms
from handlers.heads.yolov5 import YOLOv5
from repack import sources
from repack.options import SourceOptions

RAW_LIMIT = 1e-4
BOX_LIMIT = 0.5

Array = NDArray[np.float32]


def raw_error(ours: Array, theirs: Array) -> float:
    """As the module's text says; infinite where shapes differ or a value is no number."""
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1)).max())


def box_error(ours: Array, theirs: Array) -> tuple[float, int]:
    """Largest corner distance in pixels between matched boxes, and how many have no partner.

    ``[M, 6]`` each. A partner has the same class, and its score within 1e-3; each box is used once.
    """
    left = list(range(len(theirs)))
    worst, lonely = 0.0, 0
    for box in ours:
        same = [
            i for i in left if theirs[i, 5] == box[5] and abs(float(theirs[i, 4] - box[4])) < 1e-3
        ]
        distances = [float(np.abs(theirs[i, :4] - box[:4]).max()) for i in same]
        if not distances or min(distances) > BOX_LIMIT:
            lonely += 1
            continue
        worst = max(worst, min(distances))
        left.remove(same[distances.index(min(distances))])
    return worst, lonely + len(left)


@torch.no_grad()
def compare(checkpoint: Path, reference: Path) -> bool:
    """Prints one line for ``checkpoint``; whether it is within the limits."""
    source = sources.load(SourceOptions(checkpoint))
    module = source.module
    if module is None:
        raise SystemExit(f"error: {checkpoint} holds no module")
    with np.load(reference) as data:
        inputs, theirs, boxes = data["inputs"], data["raw"], data["boxes"]
        counts, (confidence, iou, limit) = data["counts"], data["settings"]
    worst_raw, worst_box, lonely, start = 0.0, 0.0, 0, 0
    for picture, expected, count in zip(inputs, theirs, counts, strict=True):
        batch = torch.from_numpy(picture.transpose(2, 0, 1)[None].copy()).float() / 255
        ours = module(batch)[0].numpy()
        worst_raw = max(worst_raw, raw_error(ours, expected))
        found = nms(
            ours, YOLOv5(classes=ours.shape[1] - 5), float(confidence), float(iou), int(limit)
        )
        distance, without = box_error(found, boxes[start : start + count])
        worst_box, lonely, start = max(worst_box, distance), lonely + without, start + count
    good = worst_raw <= RAW_LIMIT and worst_box <= BOX_LIMIT and lonely == 0 and start > 0
    print(
        f"{checkpoint.name}: {source.network}, {len(inputs)} pictures, raw {worst_raw:.1e}, "
        f"{start} boxes, worst corner {worst_box:.4f} px, {lonely} without partner: "
        f"{'ok' if good else 'DIFFERS'}",
        flush=True,
    )
    return good


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what make_yolov5_reference.py wrote")
    folder = parser.parse_args().folder
    pairs = [(f, f.with_suffix(".npz")) for f in sorted(folder.glob("*.pt"))]
    if not pairs:
        parser.error(f"{folder} holds no .pt file")
    results = [compare(checkpoint, reference) for checkpoint, reference in pairs]
    return 0 if all(results) else 3


if __name__ == "__main__":
    sys.exit(main())
