"""YOLOv5 on its way into an archive: pixels in, boxes out."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.heads import SETTING, Head
from handlers.passport import TensorSpec
from repack.model import Export, GpuModel, Model
from repack.networks.yolov5 import Detect, YOLOv5
from repack.onnx import suppression
from repack.options import MAX_SIDE, Options
from repack.raw_tensors import of_module
from repack.sources.source import Source


class PixelDetector(nn.Module):
    """A detector that takes pictures as they are decoded.

    Input: ``[N, H, W, 3]`` uint8, RGB. Output: ``[N, boxes, 5 + classes]`` as the detector's own.
    A byte per value crosses into the runtime instead of four, and scaling runs inside the graph.
    """

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.detector(_scaled(images))
        return result


class RawPixelDetector(nn.Module):
    """The same, but it ends before the boxes are decoded: three maps, as ``Detect.raw``."""

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector.raw(_scaled(images)))


def _scaled(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).to(torch.float32) / 255


class Maps(nn.Module):
    """A detector that ends in its head's convolutions, without moving an axis.

    Input: ``[N, 3, H, W]``, RGB, 0..1. Outputs per scale: ``[N, anchors * (5 + classes), H, W]``.
    """

    def __init__(self, detector: YOLOv5):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        head = cast(Detect, self.detector.model[24])
        maps = self.detector.maps(x)
        return tuple(conv(m) for conv, m in zip(head.m, maps, strict=True))


CONFIDENCE, IOU = 0.25, 0.45
"""Overlap above which boxes are merged, as these networks are usually served."""

USUAL = 640
"""Side of the square pictures that the published networks were trained on, pixels."""


def make(network: YOLOv5, source: Source, options: Options) -> Model:
    """The network on pictures of one size.

    Raises:
        KitError: a size that is no multiple of 32, or one that is too large.
    """
    asked = options.detector
    height, width = asked.sides or (USUAL, USUAL)
    if any(not 0 < side <= MAX_SIDE or side % 32 for side in (height, width)):
        raise KitError(
            f"--imgsz {asked.shown}: expected a multiple of 32 up to {MAX_SIDE}, such as 640, or "
            "two, such as 384x640"
        )
    for flag, given in (("--layout", asked.layout), ("--labels", asked.labels)):
        if given not in ("auto", None):
            raise KitError(f"a YOLOv5 checkpoint carries its own: leave {flag} out")
    raw = RawPixelDetector(network).eval()
    head, detect = network.head, cast(Detect, network.model[24])
    spec = TensorSpec("images", "uint8", ("batch", height, width, 3), (0, 255), "NHWC")
    count = sum(math.prod(g.shape[:3]) for g in head.grids(head.sides(height, width)))
    boxes = TensorSpec("boxes", "float32", ("batch", count, head.values))
    free = ("batch", "any", "any", "any", "any")
    raws = tuple(TensorSpec(name, "float32", free) for name in head.raw)

    def both(pixels: Tensor) -> tuple[Tensor, ...]:
        maps = raw(pixels)
        return torch.cat([detect.decode(m, i) for i, m in enumerate(maps)], 1), *maps

    limits = (asked.confidence or CONFIDENCE, asked.iou or IOU, asked.max_detections)
    return Model(
        source,
        (spec,),
        (boxes,),
        PixelDetector(network).eval(),
        of_module(both, (spec,), (boxes, *raws)),
        settings={
            **dict(zip(("confidence", "iou", "max_detections"), limits, strict=True)),
            SETTING: head.to_setting(),
        },
        output="boxes",
        export=Export(raw, head.raw, partial(_finish, head, limits), "detections"),
        on_gpu=GpuModel(
            Maps(network).eval(),
            {spec.name: ("batch", 3, height, width)},
            {spec.name: "float32"},
            head.raw,
            pixels=(spec.name,),
            channels_last=True,
        ),
    )


def _finish(head: Head, limits: tuple[float, float, int], exported: Path, finished: Path) -> None:
    suppression.append(exported, finished, head, *limits)
