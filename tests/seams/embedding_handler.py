"""Pictures to unit vectors: what a third party brings for the worker."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import crops
from handlers.base import Handler

Vector = NDArray[np.float32]


class EmbeddingHandler(Handler[crops.Crop, Vector]):
    """Cuts a picture's centre out and answers its embedding, of length 1."""

    def decode(self, data: bytes) -> crops.Crop:
        side = self.passport.settings["side"]
        return crops.read(data, side, side)

    def infer(self, items: Sequence[crops.Crop]) -> Sequence[Vector]:
        name = self.passport.inputs[0].name
        with self.stages.measure("infer"):
            (rows,) = self.runtime.infer({name: np.stack([i.pixels for i in items])}).values()
        return list(unit(rows))

    def encode(self, item: crops.Crop, result: Vector, accept: str) -> tuple[bytes, str]:
        answer = {"model": self.model_info(), "embedding": result.tolist()}
        return json.dumps(answer).encode(), "application/json"


def unit(rows: NDArray[Any]) -> Vector:
    """Rows ``[N, D]`` scaled to length 1."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)
