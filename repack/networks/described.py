"""Networks by their own description: YOLOv8, YOLO11, YOLOv5 and YOLOv5u, of any size and head.

Checkpoints of these families carry the configuration that they were built from: one row a layer,
with where it reads, how often it repeats, its kind and its numbers. It is data; nothing of it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repack.networks import blocks, box_heads, class_heads, yolov5, yolov5_face

MOST_LAYERS, MOST_REPEATS, MOST_CHANNELS, MOST_EXTRAS = 200, 100, 8192, 512
MOST_ANCHORS = 64
"""Beyond what any of these networks has; a description could claim anything."""


class Unknown(Exception):
    """A description that the kit does not build; its message says what is unknown."""


class Concat(nn.Module):
    """Joins maps along the channels; a module so that it keeps its layer number."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)


class Described(nn.Module):
    """A network of boxes or classes.

    Input: ``[N, 3, H, W]`` float, RGB, 0..1, H and W multiples of the largest stride.
    Output: as its head's, a class of ``box_heads`` or ``class_heads``.

    Args:
        told: "backbone" and "head" with their rows, "scales" and "scale", or "depth_multiple" and
            "width_multiple".
        classes: how many.

    Raises:
        Unknown: a layer, a number or an activation that these networks do not have.
    """

    def __init__(self, told: Mapping[str, Any], classes: int):
        super().__init__()
        rows = _rows(told)
        depth, width, most = _scale(told)
        if told.get("channels", told.get("ch", 3)) != 3:
            raise Unknown(f"{told.get('channels', told.get('ch'))} channels of input")
        if told.get("end2end"):
            raise Unknown("a head that chooses its boxes itself (end2end)")
        self.classes = classes
        self.points = points_of(told)
        self.per_cell = _anchors_of(told)
        self.landmarks = _landmarks(told)
        self.model = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        channels: list[int] = []
        nested = str(told.get("scale", "")) in ("m", "l", "x")
        for number, (reads, repeats, kind, numbers) in enumerate(rows):
            froms = _froms(reads, number)
            given = [3 if number == 0 else channels[i] for i in froms]
            count = max(round(repeats * depth), 1) if repeats > 1 else repeats
            layer, out = self._layer(kind, given, count, list(numbers), width, most, nested)
            self.model.append(layer)
            self.reads.append(froms)
            channels.append(out)
        if rows[-1][2] not in HEADS:
            raise Unknown(f"a last layer {rows[-1][2]!r}, no head")

    def _layer(
        self,
        kind: str,
        given: list[int],
        count: int,
        numbers: list[Any],
        width: float,
        most: int,
        nested: bool,
    ) -> tuple[nn.Module, int]:
        """A layer and its channels."""
        if kind == "Concat":
            return Concat(), sum(given)
        if kind.endswith("Upsample"):
            if numbers not in ([None, 2, "nearest"], ["None", 2, "nearest"]):
                raise Unknown(f"an upsampling by {numbers}")
            return nn.Upsample(scale_factor=2, mode="nearest"), given[0]
        if kind in HEADS:
            return self._head(kind, given, numbers, width, most), 0
        if kind not in ROWS or not numbers or type(numbers[0]) is not int:
            raise Unknown(f"a layer {kind!r} with {numbers}")
        out = _wide(numbers[0], width, most)
        rest = numbers[1:]
        build, kinds, repeated = ROWS[kind]
        if len(rest) > len(kinds) or any(
            type(n) not in k for n, k in zip(rest, kinds, strict=False)
        ):
            raise Unknown(f"a layer {kind!r} with {numbers}")
        if kind == "C3k2" and nested:
            rest = [True, *rest[1:]]
        if repeated or count == 1:
            return build(given[0], out, *([count, *rest] if repeated else rest)), out
        if given[0] != out:
            raise Unknown(f"a layer {kind!r}, {count} times")
        return nn.Sequential(*(build(out, out, *rest) for _ in range(count))), out

    def _head(
        self, kind: str, given: list[int], numbers: list[Any], width: float, most: int
    ) -> nn.Module:
        wide = not any(isinstance(layer, blocks.C3k2) for layer in self.model)
        parts = (self.classes, tuple(given), wide)
        whole = numbers[1:]
        if self.per_cell and whole[:1] == ["anchors"]:
            return self._anchored(kind, tuple(given), whole[1:], width, most)
        if kind == "Detect" and not whole:
            return box_heads.Detect(*parts)
        if kind == "OBB" and whole == [1]:
            return box_heads.OBB(*parts)
        if kind == "Classify" and not whole and len(given) == 1:
            return class_heads.Classify(self.classes, given[0])
        if kind == "Segment" and [type(n) for n in whole] == [int, int]:
            prototypes, hidden = whole[0], _wide(whole[1], width, most)
            if 0 < prototypes <= MOST_EXTRAS:
                return box_heads.Segment(*parts, prototypes, hidden)
        if kind == "Pose" and self.points is not None and len(whole) == 1:
            count, values = self.points
            if 0 < count <= MOST_EXTRAS and values in (2, 3):
                return box_heads.Pose(*parts, (count, values))
        raise Unknown(f"a head {kind!r} with {numbers}")

    def _anchored(
        self, kind: str, given: tuple[int, ...], numbers: list[Any], width: float, most: int
    ) -> nn.Module:
        """A head of YOLOv5."""
        if kind == "Detect" and not numbers and self.landmarks:
            return yolov5_face.Landmarks(self.classes, given, self.per_cell)
        if kind == "Detect" and not numbers:
            return yolov5.Detect(self.classes, given, self.per_cell)
        if kind == "Segment" and [type(n) for n in numbers] == [int, int]:
            prototypes, hidden = numbers[0], _wide(numbers[1], width, most)
            if 0 < prototypes <= MOST_EXTRAS:
                return yolov5.Segment(self.classes, given, self.per_cell, prototypes, hidden)
        raise Unknown(f"a head {kind!r} with anchors and {numbers}")

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for layer, froms in zip(self.model, self.reads, strict=True):
            given = [x if not kept else kept[i] for i in froms]
            joins = isinstance(layer, (Concat, box_heads.Detect, yolov5.Detect))
            kept.append(layer(given) if joins else layer(given[0]))
        return kept[-1]


HEADS = {
    "Detect": "detect",
    "Segment": "segment",
    "Pose": "pose",
    "OBB": "obb",
    "Classify": "classify",
}
"""Kinds of last layers, and the task of each in Ultralytics' word."""

COUNTED = "cv3.0.2.bias", "linear.bias"
"""Tensors of a head that have a value for each class."""


def _spp(c_in: int, c_out: int, kernels: Sequence[Any] = (5, 9, 13)) -> nn.Module:
    if not 0 < len(kernels) < 9 or any(type(k) is not int or not 0 < k < 64 for k in kernels):
        raise Unknown(f"pooling by {kernels}")
    return blocks.SPP(c_in, c_out, kernels)


def _shuffled(c_in: int, c_out: int, stride: int = 1) -> nn.Module:
    if stride not in (1, 2) or (stride == 1 and c_in != c_out):
        raise Unknown(f"a layer of {c_in} and {c_out} channels with stride {stride}")
    return yolov5_face.ShuffleV2Block(c_in, c_out, stride)


ROWS: Mapping[str, tuple[Any, Sequence[tuple[type, ...]], bool]] = {
    "Conv": (blocks.Conv, ((int,), (int,), (int, type(None))), False),
    "C3": (blocks.C3, ((bool,),), True),
    "C2f": (blocks.C2f, ((bool,),), True),
    "C3k2": (blocks.C3k2, ((bool,), (float,)), True),
    "SPPF": (blocks.SPPF, ((int,),), False),
    "SPP": (_spp, ((list, tuple),), False),
    "Focus": (blocks.Focus, ((int,),), False),
    "BottleneckCSP": (blocks.BottleneckCSP, ((bool,),), True),
    "StemBlock": (yolov5_face.StemBlock, ((int,), (int,)), False),
    "ShuffleV2Block": (_shuffled, ((int,),), False),
    "C2PSA": (blocks.C2PSA, (), True),
}
"""Kinds of layers: what builds one, types of its numbers after the channels, whether it takes how
often it repeats."""


def _wide(channels: int, width: float, most: int) -> int:
    """Channels scaled by the width, as a multiple of 8."""
    found = math.ceil(min(channels, most) * width / 8) * 8
    if not 0 < found <= MOST_CHANNELS:
        raise Unknown(f"a layer of {found} channels")
    return found


def classes_of(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """How many classes a network's tensors tell apart.

    Raises:
        Unknown: a head that does not show it.
    """
    rows = _rows(told)
    last, (*_, kind, numbers) = len(rows) - 1, rows[-1]
    for name in COUNTED:
        if (found := tensors.get(f"model.{last}.{name}")) is not None and found.ndim == 1:
            return len(found)
    bias, per_cell = tensors.get(f"model.{last}.m.0.bias"), _anchors_of(told)
    if bias is not None and bias.ndim == 1 and per_cell:
        more = [n for n in numbers[2:3] if type(n) is int]
        points = 2 * yolov5_face.POINTS if _landmarks(told) else 0
        classes = len(bias) // per_cell - sum(more) - points - 5
        if classes > 0:
            return classes
    raise Unknown(f"a head {kind!r}")


def _landmarks(told: Mapping[str, Any]) -> bool:
    """Whether the boxes have a face's points: such networks begin with a block of their own."""
    return _rows(told)[0][2] == "StemBlock"


def _anchors_of(told: Mapping[str, Any]) -> int:
    """Anchors a cell; 0 where the network has none."""
    given = told.get("anchors")
    if isinstance(given, (list, tuple)) and given and isinstance(given[0], (list, tuple)):
        given = len(given[0]) // 2
    return given if type(given) is int and 0 < given <= MOST_ANCHORS else 0


def points_of(told: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many points a box has, and of how many values each; None where it has none."""
    given = told.get("kpt_shape")
    if isinstance(given, (list, tuple)) and [type(n) for n in given] == [int, int]:
        return given[0], given[1]
    return None


def _rows(told: Mapping[str, Any]) -> list[tuple[Any, int, str, Sequence[Any]]]:
    found: list[tuple[Any, int, str, Sequence[Any]]] = []
    for part in ("backbone", "head"):
        rows = told.get(part)
        if not isinstance(rows, list):
            raise Unknown(f"no {part}")
        for row in rows:
            if not isinstance(row, (list, tuple)) or len(row) != 4:
                raise Unknown(f"a row {row!r:.60} of the {part}")
            reads, repeats, kind, numbers = row
            if type(repeats) is not int or not 0 < repeats <= MOST_REPEATS:
                raise Unknown(f"a layer, {repeats!r:.20} times")
            if not isinstance(kind, str) or not isinstance(numbers, (list, tuple)):
                raise Unknown(f"a row {row!r:.60} of the {part}")
            found.append((reads, repeats, kind, numbers))
    if not 0 < len(found) <= MOST_LAYERS:
        raise Unknown(f"{len(found)} layers")
    return found


def _froms(reads: Any, number: int) -> tuple[int, ...]:
    """The layers that one reads, from 0 on; the first reads the picture."""
    given = reads if isinstance(reads, (list, tuple)) else [reads]
    found = []
    for one in given:
        if type(one) is not int:
            raise Unknown(f"a layer that reads {reads!r:.40}")
        place = number + one if one < 0 else one
        if not (0 <= place < number or number == 0 == place + 1):
            raise Unknown(f"layer {number} that reads {reads!r:.40}")
        found.append(place)
    return tuple(found)


def _scale(told: Mapping[str, Any]) -> tuple[float, float, int]:
    """Depth, width and most channels before the width."""
    scales, scale = told.get("scales"), told.get("scale")
    if isinstance(scales, dict) and scales:
        found = scales.get(scale or next(iter(scales)))
        if not isinstance(found, (list, tuple)) or len(found) != 3:
            raise Unknown(f"scale {scale!r:.20}")
        depth, width, most = found
    else:
        depth, width = told.get("depth_multiple", 1.0), told.get("width_multiple", 1.0)
        most = MOST_CHANNELS
    if not all(type(n) in (int, float) and 0 < n <= 10 for n in (depth, width)):
        raise Unknown(f"depth {depth!r:.20} and width {width!r:.20}")
    if type(most) is not int or not 0 < most <= MOST_CHANNELS:
        raise Unknown(f"{most!r:.20} channels")
    return float(depth), float(width), most
