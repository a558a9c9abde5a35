"""What a handler is told of its surroundings, where no TorchServe surrounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class HostContext:
    """The ``Context`` of ``handlers.context``, for one model and one batch after the other.

    Args:
        folder: the unpacked archive.
        name: the model's name, as its metrics have it.
        artefact: "accelerated" or "portable".
        gpu: number of the GPU to use; None where there is none, or for the first.
        batch_size: the most requests that come at once.
        metrics: what the handler reports to, as ``handlers.context.Metrics``.
        shared: whether other processes run the same model, so that one may hold it on the GPU.

    Attributes:
        statuses, content_types, response_headers: by item, of the current batch.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        metrics: Any,
        artefact: str = "accelerated",
        gpu: int | None = None,
        batch_size: int = 1,
        shared: bool = False,
    ):
        self.model_name = name
        self.artefact = artefact
        self.shared = shared
        self.metrics = metrics
        self.system_properties: dict[str, Any] = {
            "model_dir": str(folder),
            "gpu_id": gpu,
            "batch_size": batch_size,
        }
        self.begin(())

    def begin(self, headers: Sequence[Mapping[str, str]]) -> None:
        """Begins a batch: each item's own request headers, and nothing answered yet."""
        self._headers = headers
        self.statuses: dict[int, int] = {}
        self.content_types: dict[int, str] = {}
        self.response_headers: dict[int, dict[str, str]] = {}

    def get_all_request_header(self, idx: int) -> Mapping[str, str]:
        return self._headers[idx]

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.statuses[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.content_types[idx] = value

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.response_headers.setdefault(idx, {})[key] = value
