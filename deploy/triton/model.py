"""A model of Triton's Python backend: bytes of requests in, the archive's own answers out.

This file travels: it stands in the model repository beside the archive that it serves and a copy of
``deploy.hosting``, and needs nothing else of the kit.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if "deploy" not in sys.modules:  # in Triton
    sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
import triton_python_backend_utils as backend  # noqa: E402

from deploy.hosting.model import Answer, Model, Request  # noqa: E402
from deploy.hosting.parameters import headers  # noqa: E402
from deploy.torchserve.guard.http import Refusal  # noqa: E402


class TritonPythonModel:
    """One instance: one process with one loaded archive."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the archive beside this file, whose checksums are compared first."""
        config = json.loads(args["model_config"])
        told = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        gpu = args["model_instance_kind"] == "GPU"
        given: dict[str, Any] = {
            "name": args["model_name"],
            "gpu": int(args["model_instance_device_id"]) if gpu else None,
            "threads": int(told["threads"]),
            "batch_size": config["max_batch_size"],
            "metrics": Metrics(),
        }
        if "network" in told:
            self._model: Model = Networked(json.loads(told["network"]), HERE / "archive", **given)
        else:
            self._model = Model(HERE / "archive", **given)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers all requests of a batch by one call; as many responses, in their order."""
        read = [_read(request) for request in requests]
        asked = [item for items in read if isinstance(items, list) for item in items]
        answers = iter(self._model.answer(asked) if asked else ())
        return [
            _response([next(answers) for _ in items])
            if isinstance(items, list)
            else backend.InferenceResponse(error=items)
            for items in read
        ]


class Networked(Model):
    """An archive whose network runs in a model of its own, beside this one.

    Args:
        network: for ``deploy.triton.network.install``.
    """

    def __init__(self, network: Mapping[str, Any], *given: Any, **more: Any):
        self._network = network
        super().__init__(*given, **more)

    def _load(self, *given: Any) -> None:
        importlib.import_module("deploy.triton.network").install(**self._network)
        super()._load(*given)


def _read(request: Any) -> list[Request] | Any:
    """What a request asks, one for each row of its tensor; or the error that answers it."""
    try:
        given = headers(json.loads(request.parameters() or "{}"))
    except Refusal as e:
        return backend.TritonError(str(e), backend.TritonError.INVALID_ARG)
    rows = backend.get_input_tensor_by_name(request, "BODY").as_numpy().reshape(-1)
    return [Request(bytes(row), given) for row in rows]


def _response(answers: Sequence[Answer]) -> Any:
    """One response: tensors of all answers; an error where none of them has the status 200."""
    if all(answer.status != 200 for answer in answers):
        return backend.InferenceResponse(error=_error(answers))
    headers = [{"content-type": a.media_type, **a.headers} for a in answers]
    columns = {
        "ANSWER": np.array([a.body for a in answers], dtype=np.object_),
        "STATUS": np.array([a.status for a in answers], dtype=np.int32),
        "HEADERS": np.array([json.dumps(h).encode() for h in headers], dtype=np.object_),
    }
    tensors = [backend.Tensor(name, column[:, None]) for name, column in columns.items()]
    return backend.InferenceResponse(tensors)


def _error(answers: Sequence[Answer]) -> Any:
    first = answers[0]
    told = json.loads(first.body)
    line = f"{first.status} {told['type']}: {told['message']}"
    if len(answers) > 1:
        line = f"all {len(answers)} items were refused, the first with {line}"
    kind = backend.TritonError
    if first.status < 500:
        return kind(line, kind.INVALID_ARG)
    return kind(line, kind.UNAVAILABLE if first.status in (503, 507) else kind.INTERNAL)


class Metrics:
    """The handler's counters and gauges on Triton's own metrics page."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, ...], Any] = {}

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = (),
        **kind: Any,
    ) -> None:
        """Adds to a counter, or sets a gauge, of these dimensions."""
        gauge = kind.get("metric_type") == "gauge"
        labels = {d.name: str(d.value) for d in dimensions}
        key = (name, *labels.values())
        if key not in self._metrics:
            if name not in self._families:
                family = backend.MetricFamily
                self._families[name] = family(
                    name=name,
                    description=f"{name} ({unit})",
                    kind=family.GAUGE if gauge else family.COUNTER,
                )
            self._metrics[key] = self._families[name].Metric(labels=labels)
        if gauge:
            self._metrics[key].set(value)
        else:
            self._metrics[key].increment(value)
