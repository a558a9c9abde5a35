"""Pictures to unit vectors: what a third party brings for the repack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from repack.tasks.base import Comparison, Task

if TYPE_CHECKING:
    from repack.model import Arrays, Model
    from repack.options import Options
    from repack.samples import Sample
    from repack.sources.source import Source

COSINE = {"f32": 0.99999, "bf16": 0.999, "int8": 0.98}
"""Least cosine between the original's vector and the converted model's."""


class Embedding(Task):
    """One vector a picture: a task that overrides what its folder would hold."""

    def model(self, source: Source, options: Options) -> Model:
        from dataclasses import replace

        import torch
        from torch import Tensor, nn

        from handlers.passport import TensorSpec
        from repack.model import Model
        from repack.raw_tensors import of_module

        class Pixels(nn.Module):
            """The network behind the pixels: ``[N, side, side, 3]`` uint8 to ``[N, D]``."""

            def __init__(self, network: nn.Module):
                super().__init__()
                self.network = network

            def forward(self, pixels: Tensor) -> Tensor:
                found: Tensor = self.network(pixels.permute(0, 3, 1, 2).to(torch.float32) / 255)
                return found

        assert source.module is not None
        (side,) = {int(n) for n in options.input_shapes["input_0"][2:]}
        module = Pixels(source.module).eval()
        taken = TensorSpec("pixels", "uint8", ("batch", side, side, 3), (0, 255), "NHWC")
        given = TensorSpec("embedding", "float32", ("batch", "any"))
        original = of_module(module, (taken,), (given,))
        source = replace(source, task=self.name)
        return Model(source, (taken,), (given,), module, original, settings={"side": side})

    def read_samples(self, folder: Path, model: Model, flag: str) -> list[Sample]:
        from handlers import crops
        from repack.samples import PICTURES, Sample, read_each

        side = model.settings["side"]

        def read(path: Path) -> Sample:
            pixels = crops.read(path.read_bytes(), side, side).pixels
            return Sample(path, {model.inputs[0].name: np.array(pixels)[None]})

        return read_each(folder, flag, PICTURES, read)

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
        from embedding_handler import unit  # type: ignore[import-not-found]

        pairs = [
            (unit(a["embedding"]), unit(b["embedding"]))
            for a, b in zip(originals, converted, strict=True)
        ]
        least = float(min(np.sum(a * b, axis=1).min() for a, b in pairs))
        result = Comparison({"least_cosine": round(least, 6)})
        if least < COSINE[asked]:
            result.failures.append(f"cosine {least:.6f}, at least {COSINE[asked]} for {asked}")
        return result


EMBEDDING = Embedding(
    "embedding", "an embedding", "embedding_handler:EmbeddingHandler", takes_pictures=True
)
