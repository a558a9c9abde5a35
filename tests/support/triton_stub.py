"""As much of ``triton_python_backend_utils`` as a model touches, for tests without a server."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tensor:
    name: str
    values: NDArray[Any]

    def as_numpy(self) -> NDArray[Any]:
        return self.values


@dataclass(frozen=True)
class TritonError:
    message: str
    code: int
    INVALID_ARG: ClassVar[int] = 3
    INTERNAL: ClassVar[int] = 1
    UNAVAILABLE: ClassVar[int] = 4


@dataclass(frozen=True)
class InferenceResponse:
    output_tensors: Sequence[Tensor] = ()
    error: TritonError | None = None

    def named(self, name: str) -> Any:
        """The column of an output."""
        (found,) = (t for t in self.output_tensors if t.name == name)
        assert found.values.ndim == 2
        return found.values[:, 0].tolist()


@dataclass(frozen=True)
class Request:
    tensors: Mapping[str, NDArray[Any]]
    given: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self) -> str:
        return json.dumps(self.given)


class MetricFamily:
    COUNTER, GAUGE = "counter", "gauge"
    page: ClassVar[dict[tuple[str, str], float]] = {}
    """Values by family and last label."""

    def __init__(self, name: str, description: str, kind: str):
        self.name, self.kind = name, kind

    def Metric(self, labels: Mapping[str, str]) -> Any:  # noqa: N802
        key = (self.name, list(labels.values())[-1])

        class Metric:
            def increment(self, value: float) -> None:
                MetricFamily.page[key] = MetricFamily.page.get(key, 0) + value

            def set(self, value: float) -> None:
                MetricFamily.page[key] = value

        return Metric()


TRITONSERVER_MEMORY_CPU = 0


@dataclass(frozen=True)
class PreferredMemory:
    kind: int
    device: int


@dataclass(frozen=True)
class Failed:
    message_: str

    def message(self) -> str:
        return self.message_


@dataclass(frozen=True)
class Response:
    tensors: Mapping[str, NDArray[Any]]
    failed: Failed | None = None

    def has_error(self) -> bool:
        return self.failed is not None

    def error(self) -> Failed | None:
        return self.failed


@dataclass(frozen=True)
class InferenceRequest:
    """A request to another model; ``answer`` is that model."""

    model_name: str
    inputs: Sequence[Tensor]
    requested_output_names: Sequence[str]
    preferred_memory: PreferredMemory
    answer: ClassVar[Callable[[InferenceRequest], Response]]

    def exec(self) -> Response:
        return type(self).answer(self)


def get_output_tensor_by_name(response: Response, name: str) -> Tensor:
    return Tensor(name, response.tensors[name])


def get_input_tensor_by_name(request: Request, name: str) -> Tensor:
    return Tensor(name, request.tensors[name])


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Any:
    """The initialised ``TritonPythonModel`` of a model's folder in a repository."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", sys.modules[__name__])
    spec = importlib.util.spec_from_file_location("model_in_triton", folder / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    told = {"max_batch_size": 4, "parameters": {"threads": {"string_value": "1"}}, **config}
    model.initialize(
        {
            "model_config": json.dumps(told),
            "model_name": folder.name,
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )
    return model


def asked(*bodies: bytes, **given: Any) -> Request:
    """A request with as many rows as bodies."""
    return Request({"BODY": np.array(bodies, dtype=np.object_)[:, None]}, given)
