"""Detectors on their way into an archive: pixels in, boxes out."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from handlers.errors import KitError
from handlers.head import SETTING, Head
from handlers.passport import TensorSpec
from repack.model import Export, GpuModel, Model, of_module
from repack.networks.yolov5 import Detect, YOLOv5
from repack.onnx import suppression
from repack.options import MAX_SIDE, DetectorOptions, Options
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


def make(source: Source, options: Options) -> Model:
    """A detector on square pictures.

    Raises:
        KitError: no detector, a size that is no multiple of 32, or one that is too large.
    """
    asked, imgsz = options.detector, options.detector.imgsz
    if options.input_shapes or options.input_values:
        raise KitError(
            "a YOLOv5 detector's input is set by --imgsz: no --input-shape or --input-values"
        )
    if not 0 < imgsz <= MAX_SIDE or imgsz % 32:
        raise KitError(f"--imgsz {imgsz}: expected a multiple of 32 up to {MAX_SIDE}, such as 640")
    if not isinstance(source.module, YOLOv5):
        raise KitError(
            f"{source.path}: {source.called} holds no detector that the kit knows: "
            "expected a YOLOv5 checkpoint; --task tensors serves any model"
        )
    network = source.module
    raw = RawPixelDetector(network).eval()
    head, detect = network.head, cast(Detect, network.model[24])
    spec = TensorSpec("images", "uint8", ("batch", imgsz, imgsz, 3), (0, 255), "NHWC")
    count = sum(math.prod(g.shape[:3]) for g in head.grids(head.sides(imgsz, imgsz)))
    boxes = TensorSpec("boxes", "float32", ("batch", count, head.values))
    free = ("batch", "any", "any", "any", "any")
    raws = tuple(TensorSpec(name, "float32", free) for name in head.raw)

    def both(pixels: Tensor) -> tuple[Tensor, ...]:
        maps = raw(pixels)
        return torch.cat([detect.decode(m, i) for i, m in enumerate(maps)], 1), *maps

    return Model(
        source,
        (spec,),
        (boxes,),
        PixelDetector(network).eval(),
        of_module(both, (spec,), (boxes, *raws)),
        settings={
            "confidence": asked.confidence,
            "iou": asked.iou,
            "max_detections": asked.max_detections,
            SETTING: head.to_setting(),
        },
        output="boxes",
        export=Export(raw, head.raw, partial(_finish, head, asked), "detections"),
        on_gpu=GpuModel(
            Maps(network).eval(),
            {spec.name: ("batch", 3, imgsz, imgsz)},
            {spec.name: "float32"},
            head.raw,
            pixels=(spec.name,),
            channels_last=True,
        ),
    )


def _finish(head: Head, asked: DetectorOptions, exported: Path, finished: Path) -> None:
    suppression.append(exported, finished, head, asked.confidence, asked.iou, asked.max_detections)
