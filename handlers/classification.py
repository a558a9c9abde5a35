"""Classifiers: a picture in, the most probable classes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import batches, crops, parameters
from handlers.base import Handler
from handlers.errors import Unprocessable

Scores = NDArray[np.float64]


class ClassificationHandler(Handler[crops.Crop, Scores]):
    """Cuts a picture's centre out, as in training, and answers its most probable classes.

    Settings in the passport: ``resize`` and ``crop`` (pixels), ``scores`` ("logits" or
    "probabilities": what the model gives) and ``top_k``. The model takes pixels: normalising runs
    inside its graph.
    """

    parameters = ("top_k",)

    def with_parameters(self, item: crops.Crop, given: Mapping[str, str]) -> crops.Crop:
        most = len(self.passport.labels)
        return item._replace(top_k=parameters.whole("top_k", given, most, ", all classes"))

    def decode(self, data: bytes) -> crops.Crop:
        settings = self.passport.settings
        return crops.read(data, settings["resize"], settings["crop"])

    def infer(self, items: Sequence[crops.Crop]) -> Sequence[Scores]:
        spec = self.passport.inputs[0]
        with self.stages.measure("preprocess"):
            pixels = np.stack([item.pixels for item in items])
        found: list[Scores] = []
        for part, count in batches.of(spec, pixels):
            with self.stages.measure("infer"):
                (values,) = self.runtime.infer({spec.name: part}).values()
            with self.stages.measure("postprocess"):
                found += list(probabilities(values[:count], self.passport.settings["scores"]))
        return found

    def encode(self, item: crops.Crop, result: Scores, accept: str) -> tuple[bytes, str]:
        if not np.isfinite(result).all():
            raise Unprocessable("the model answered NaN or infinity for this picture")
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            **({} if item.top_k is None else {"parameters": {"top_k": item.top_k}}),
            "image": {"width": item.width, "height": item.height},
            "classes": self.classes(result, item.top_k or self.passport.settings["top_k"]),
        }
        return json.dumps(answer).encode(), "application/json"

    def classes(self, result: Scores, count: int) -> list[dict[str, Any]]:
        """The first ``count`` classes as the answer has them, most probable first."""
        labels = self.passport.labels
        order = np.argsort(-result, kind="stable")[:count]
        return [
            {"class": labels[i], "class_id": int(i), "probability": round(float(result[i]), 6)}
            for i in order
        ]


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
