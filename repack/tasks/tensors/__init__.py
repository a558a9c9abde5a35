"""Raw tensors: what a model does is not known, so its outputs alone are compared and served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repack.tasks.base import Note, Task

if TYPE_CHECKING:
    from repack.model import Model
    from repack.options import Options
    from repack.samples import Sample
    from repack.sources.source import Source


class RawTensors(Task):
    """Tensors in, tensors out."""

    name = "tensors"
    title = "a model of raw tensors"
    handler = "handlers.tensors:TensorHandler"

    def model(self, source: Source, options: Options) -> Model:
        if source.engine is not None:
            from repack.tasks.tensors import engine

            return engine.model(source, options)
        from repack.tasks.tensors.model import tensors

        return tensors(replace(source, task=self.name), options.input_shapes)

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        from repack import samples

        return samples.read_each(folder, flag, samples.ARRAYS, lambda p: samples.arrays(p, model))

    def example(self, model: Model, samples: Sequence[Sample], folder: Path) -> Path:
        if samples:
            return samples[0].path.resolve()
        import numpy as np

        path = folder / "example.npz"
        np.savez(path, **model.random_inputs(seed=2))  # type: ignore[arg-type]
        return path

    def unchecked(self, figures: dict[str, Any], samples: int) -> list[Note]:
        why = "raw outputs are compared; the kit knows no measure of this model's task."
        return [Note("What the figures mean", why)]
