"""What a handler needs of its surroundings: TorchServe's context, or a local one like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol


class Metrics(Protocol):
    """The part of TorchServe's metrics cache that the handlers use."""

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = ...,
        **kind: Any,
    ) -> None: ...


class Context(Protocol):
    """The part of ``ts.context.Context`` that the handlers use."""

    model_name: str

    @property
    def system_properties(self) -> Mapping[str, Any]: ...

    @property
    def metrics(self) -> Metrics: ...

    def get_all_request_header(self, idx: int) -> Mapping[str, Any]: ...
    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None: ...
    def set_response_content_type(self, idx: int, value: str) -> None: ...
    def set_response_header(self, idx: int, key: str, value: str) -> None: ...


class LocalMetrics:
    """Sums up counters by name and last dimension, as the server's Prometheus page would."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, str], float] = {}

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: str | None = None,
        dimensions: Sequence[Any] = (),
        **kind: Any,
    ) -> None:
        key = (name, dimensions[-1].value if dimensions else "")
        before = 0.0 if kind.get("metric_type") == "gauge" else self.totals.get(key, 0.0)
        self.totals[key] = before + value


class LocalContext:
    """Runs a handler without a server.

    Args:
        folder: an unpacked archive.
        artefact: "accelerated", or "portable" for the module that every machine can run.
        name: the model's name in answers.
        batch_size: as the server would set it.
        headers: request headers given to every item, for example ``{"accept": "image/jpeg"}``, or
            those of each item of the batches that follow.
        shared: whether other processes run the same model, so that one may hold it on the GPU.

    Attributes:
        statuses: HTTP status per item, of the last batch; handlers call ``begin`` for each.
        content_types: media type per item, likewise.
        response_headers: the other headers of the answers, by item.
    """

    def __init__(
        self,
        folder: Path,
        artefact: str = "accelerated",
        name: str = "local",
        batch_size: int = 1,
        headers: Mapping[str, str] | Sequence[Mapping[str, str]] = MappingProxyType({}),
        shared: bool = False,
    ):
        self.model_name = name
        self.shared = shared
        self.artefact = artefact
        self.system_properties: dict[str, Any] = {
            "model_dir": str(folder),
            "gpu_id": None,
            "batch_size": batch_size,
        }
        self.headers = headers
        self.metrics = LocalMetrics()
        self._statuses: dict[int, int] = {}
        self._content_types: dict[int, str] = {}
        self.response_headers: dict[int, dict[str, str]] = {}

    def begin(self) -> None:
        """Forgets the last batch's statuses, content types and headers."""
        self._statuses.clear()
        self._content_types.clear()
        self.response_headers.clear()

    def get_all_request_header(self, idx: int) -> Mapping[str, Any]:
        return self.headers if isinstance(self.headers, Mapping) else self.headers[idx]

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self._statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self._content_types[idx] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.response_headers.setdefault(idx, {})[key] = value

    @property
    def statuses(self) -> list[int]:
        return [self._statuses[i] for i in sorted(self._statuses)]

    @property
    def content_types(self) -> list[str]:
        return [self._content_types[i] for i in sorted(self._content_types)]

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds per stage, summed over all calls so far."""
        totals = self.metrics.totals
        return {k[1]: v for k, v in totals.items() if k[0] == "handler_stage_milliseconds"}
