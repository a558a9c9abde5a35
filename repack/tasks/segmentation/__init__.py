"""Segmentation of volumes: a scan in, a mask on its own grid out."""

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


class Segmentation(Task):
    """Windows of a volume in, their logits out."""

    name = "segmentation"
    title = "a segmentation net"
    handler = "handlers.segmentation:SegmentationHandler"
    names_causes = True
    # A 512x512x500 scan of 16-bit values has 250 MiB as it is, and minutes are usual on a CPU.
    server = {"max_request_mb": "512", "response_timeout": "900"}  # noqa: RUF012

    def model(self, source: Source, options: Options) -> Model:
        from repack.tasks.segmentation.model import segmentation_net

        return segmentation_net(source, options.input_shapes)

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        from repack.tasks.segmentation import samples

        return samples.read(folder, model, flag)

    def example(self, model: Model, samples: Sequence[Sample], folder: Path) -> Path:
        from repack.tasks.segmentation.samples import example

        return example(model, folder / "example.nii.gz")

    def compare(
        self,
        model: Model,
        asked: str,
        originals: Sequence[Arrays],
        converted: Sequence[Arrays],
        samples: Sequence[Sample],
    ) -> Comparison:
        from repack.tasks.segmentation import compare

        return compare.compare(model, asked, originals, converted)
