"""Object detection: pictures in, boxes out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repack.tasks.base import Comparison, Task

if TYPE_CHECKING:
    from repack.model import Arrays, Model
    from repack.options import Options
    from repack.samples import Sample
    from repack.sources.source import Source


class Detection(Task):
    """Boxes with a class and a confidence."""

    name = "detection"
    title = "a detector"
    handler = "handlers.detection:DetectionHandler"
    takes_pictures = True

    def model(self, source: Source, options: Options) -> Model:
        from repack.tasks.detection.model import detector

        return detector(source, options)

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        from repack.tasks.detection import samples

        return samples.read(folder, model, flag)

    def example(self, model: Model, samples: Sequence[Sample], folder: Path) -> Path:
        from repack.samples import picture_example

        return picture_example(model, samples, folder)

    def compare(
        self,
        model: Model,
        asked: str,
        originals: Sequence[Arrays],
        converted: Sequence[Arrays],
        samples: Sequence[Sample],
    ) -> Comparison:
        from repack.tasks.detection import compare

        return compare.compare(model, asked, originals, converted, samples)
