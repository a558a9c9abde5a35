"""Detectors on their way into an archive: pixels in, boxes out."""

from __future__ import annotations

from handlers.errors import KitError
from repack.model import Model
from repack.networks.yolov5 import YOLOv5
from repack.options import Options
from repack.sources.source import Source
from repack.tasks.detection import files, yolov5


def make(source: Source, options: Options) -> Model:
    """A detector of a checkpoint that the kit builds itself, or of a file with its own network.

    Raises:
        KitError: no detector, or options that do not fit it.
    """
    if isinstance(source.module, YOLOv5):
        if options.input_shapes or options.input_types or options.input_values:
            raise KitError(
                "a YOLOv5 detector's input is set by --imgsz: no --input-shape or --input-values"
            )
        return yolov5.make(source.module, source, options)
    return files.make(source, options)
