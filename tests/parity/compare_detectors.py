"""Detectors and classifiers of other packages against the packages' own predictions.

    python -m tests.parity.compare_detectors --reference DIR --pictures DIR [--flags "..."]

``DIR`` is what ``make_ultralytics_reference.py`` wrote: files and, for each, what the package
predicts. Every file is packed by the kit's own command and asked about every picture; the table
says how many boxes there are, how many have their partner, and the largest differences; of
classifiers, in how many pictures the five best classes are the same, in order.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.rectangles import overlap
from repack import cli, pipeline
from repack.tasks.detection.metrics import match

SUFFIXES = (".pt", ".onnx", ".torchscript")
HEAD = (
    f"{'file':24} {'boxes':>6} {'matched':>8} {'px':>7} {'conf':>8} {'points px':>9} "
    f"{'mask IoU':>8}  runtime"
)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="detectors against their packages' predictions")
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--flags", default="--backend onnxruntime --precision f32")
    parser.add_argument("--only", default="*")
    given = parser.parse_args(arguments)
    print(HEAD)
    worst = 0
    for wanted in sorted(given.reference.glob("*.json")):
        for suffix in SUFFIXES:
            file = wanted.with_suffix(suffix)
            if file.is_file() and fnmatch(file.name, given.only):
                worst |= compare(file, json.loads(wanted.read_text()), given)
    return worst


def compare(file: Path, wanted: dict[str, Any], given: argparse.Namespace) -> int:
    """One line of the table; 1 where a box has no partner or lies elsewhere."""
    try:
        answers = asked(file, list(wanted), given)
    except Exception as e:
        print(f"{file.name:24} {str(e).splitlines()[0][:150]}")
        return 1
    runtime = answers[0]["runtime"]
    measures = {"probabilities": classes, "obb": rectangles, "boxes": boxes}
    measure = next(m for kind, m in measures.items() if kind in next(iter(wanted.values())))
    line, wrong = measure(list(wanted.values()), answers)
    print(f"{file.name:24} {line}  {runtime['name']} {runtime['precision']}", flush=True)
    return int(wrong)


def asked(file: Path, names: list[str], given: argparse.Namespace) -> list[dict[str, Any]]:
    """What the archive of a file answers to each picture."""
    with tempfile.TemporaryDirectory() as tmp:
        flags = ["--weights", str(file), "--name", "m", "--model-store", tmp]
        flags += ["--samples", str(given.pictures)]
        options = cli.parse([*flags, *shlex.split(given.flags)])
        sys.stdout, kept = sys.stderr, sys.stdout
        try:
            archive = pipeline.repack(options)
        finally:
            sys.stdout = kept
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(Path(tmp) / "out")
        entry, context = Entry(), LocalContext(Path(tmp) / "out")
        entry.initialize(context)
        found = []
        for name in names:
            context.begin()
            (body,) = entry.handle([{"body": (given.pictures / name).read_bytes()}], context)
            found.append(json.loads(body))
        return found


def classes(wanted: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[str, bool]:
    """How many pictures keep their five classes, and the largest difference of a probability."""
    same, apart = 0, 0.0
    for rows, answer in zip(wanted, answers, strict=True):
        theirs = np.array(rows["probabilities"])
        mine = [c["class_id"] for c in answer["classes"]]
        same += mine == np.argsort(-theirs, kind="stable")[: len(mine)].tolist()
        apart = max(
            [apart, *(abs(c["probability"] - theirs[c["class_id"]]) for c in answer["classes"])]
        )
    told = f"{len(wanted):6} pictures, {same} with the same {len(mine)} classes, {apart:.6f}"
    return told, same < len(wanted) or apart > 1e-4


def rectangles(wanted: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[str, bool]:
    """As ``boxes``, of boxes at an angle; the largest difference of an angle besides."""
    count = matched = 0
    shift = confidence = turned = 0.0
    for rows, answer in zip(wanted, answers, strict=True):
        theirs = list(np.array(rows["obb"]).reshape(-1, 7))
        count += max(len(theirs), len(answer["detections"]))
        for one in answer["detections"]:
            mine = np.array(one["xywhr"])
            alike = [overlap(t[:5], mine) if t[6] == one["class_id"] else 0.0 for t in theirs]
            at = int(np.argmax(alike)) if alike else 0
            if not alike or alike[at] < 0.5:
                continue
            want = theirs.pop(at)
            matched += 1
            shift = max(shift, float(np.abs(want[:4] - mine[:4]).max()))
            turned = max(turned, abs(float(want[4] - mine[4])))
            confidence = max(confidence, abs(float(want[5]) - one["confidence"]))
    told = f"{count:6} {matched:8} {shift:7.3f} {confidence:8.5f}  angle {turned:.5f}"
    return told, matched < count or shift > 0.5 or turned > 1e-3


def boxes(wanted: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[str, bool]:
    """The columns of ``HEAD``."""
    count = matched = 0
    shift = confidence = points = 0.0
    masks: list[float] = []
    for rows, answer in zip(wanted, answers, strict=True):
        mine, theirs = _rows(answer), _theirs(rows["boxes"])
        size = answer["image"]["width"], answer["image"]["height"]
        theirs[:, :4] = theirs[:, :4].clip(0, size * 2)  # not all of them cut at the borders
        found = match(theirs, mine, iou=0.5)
        count += max(len(theirs), len(mine))
        matched += found.matched
        shift, confidence = max(shift, found.box_px), max(confidence, found.confidence)
        for theirs_at, mine_at in found.pairs:
            one = answer["detections"][mine_at]
            if "points" in rows:
                want = np.array(rows["points"][theirs_at])
                apart = np.abs(want[:, :2] - np.array(one["points"])[:, :2])
                points = max(points, float(apart[want[:, 2] > 0.5].max(initial=0)))
            if "masks" in rows:
                size = answer["image"]["height"], answer["image"]["width"]
                masks.append(_overlap(rows["masks"][theirs_at], one["polygons"], size))
    told = (
        f"{count:6} {matched:8} {shift:7.3f} {confidence:8.5f} {points:9.3f} "
        f"{np.mean(masks) if masks else np.nan:8.4f}"
    )
    return told, matched < count or shift > 0.5


def _rows(answer: dict[str, Any]) -> NDArray[np.float32]:
    rows = [[*d["box"], d["confidence"], d["class_id"]] for d in answer["detections"]]
    return np.array(rows, np.float32).reshape(-1, 6)


def _overlap(theirs: list[list[float]], mine: list[list[int]], size: tuple[int, int]) -> float:
    """Intersection over union of what lies within two sets of outlines."""
    one, other = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    cv2.fillPoly(one, [np.round(theirs).astype(np.int32).reshape(-1, 2)], 1)
    cv2.fillPoly(other, [np.reshape(p, (-1, 2)).astype(np.int32) for p in mine], 1)
    return float((one & other).sum() / max((one | other).sum(), 1))


def _theirs(rows: list[list[float]]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 6)


if __name__ == "__main__":
    raise SystemExit(main())
