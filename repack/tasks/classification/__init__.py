"""Classification: a picture in, the most probable classes out."""

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


class Classification(Task):
    """One row of scores a picture."""

    name = "classification"
    title = "a classifier"
    handler = "handlers.classification:ClassificationHandler"
    takes_pictures = True
    labelled = True
    names_causes = True

    def model(self, source: Source, options: Options) -> Model:
        from repack.tasks.classification.model import classifier

        return classifier(source, options.input_shapes, options.classifier)

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        from repack.tasks.classification import samples

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
        from repack.tasks.classification import compare

        return compare.compare(model, asked, originals, converted, samples)
