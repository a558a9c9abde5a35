"""Classifiers: a picture in, the most probable classes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import crops
from handlers.base import Handler
from handlers.errors import Unprocessable

Scores = NDArray[np.float64]


class ClassificationHandler(Handler[crops.Crop, Scores]):
    """Cuts a picture's centre out, as in training, and answers its most probable classes.

    Settings in the passport: ``resize`` and ``crop`` (pixels), ``scores`` ("logits" or
    "probabilities": what the model gives) and ``top_k``. The model takes pixels: normalising runs
    inside its graph.
    """

    def decode(self, data: bytes) -> crops.Crop:
        settings = self.passport.settings
        return crops.read(data, settings["resize"], settings["crop"])

    def infer(self, items: Sequence[crops.Crop]) -> Sequence[Scores]:
        with self.stages.measure("preprocess"):
            batches = self._batches(items)
        found: list[Scores] = []
        for batch in batches:
            with self.stages.measure("infer"):
                (values,) = self.runtime.infer({self.passport.inputs[0].name: batch}).values()
            with self.stages.measure("postprocess"):
                found += list(probabilities(values, self.passport.settings["scores"]))
        return found[: len(items)]

    def encode(self, item: crops.Crop, result: Scores, accept: str) -> tuple[bytes, str]:
        if not np.isfinite(result).all():
            raise Unprocessable("the model answered NaN or infinity for this picture")
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "image": {"width": item.width, "height": item.height},
            "classes": self.classes(result),
        }
        return json.dumps(answer).encode(), "application/json"

    def classes(self, result: Scores) -> list[dict[str, Any]]:
        """The ``top_k`` classes as the answer has them, most probable first."""
        labels = self.passport.labels
        order = np.argsort(-result, kind="stable")[: self.passport.settings["top_k"]]
        return [
            {"class": labels[i], "class_id": int(i), "probability": round(float(result[i]), 6)}
            for i in order
        ]

    def _batches(self, items: Sequence[crops.Crop]) -> list[NDArray[np.uint8]]:
        """All items as one batch; for a model of fixed batch, several, the last filled with zeros.

        ``infer`` cuts the rows of the filling off again.
        """
        pixels = np.stack([item.pixels for item in items])
        size = self.passport.inputs[0].shape[0]
        if isinstance(size, str):
            return [pixels]
        missing = -len(items) % size
        filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
        return [filled[i : i + size] for i in range(0, len(filled), size)]


def probabilities(values: NDArray[Any], kind: str) -> Scores:
    """Probabilities ``[N, classes]``.

    Args:
        values: the model's answer, ``[N, classes]``.
        kind: "logits", which softmax turns into probabilities, or "probabilities".
    """
    scores = np.array(values, np.float64)
    if kind == "probabilities":
        return scores
    with np.errstate(invalid="ignore"):  # NaN and infinity are found when the answer is written
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
