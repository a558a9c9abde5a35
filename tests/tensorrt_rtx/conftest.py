"""TensorRT for RTX instead of TensorRT: a modern one that builds without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import versions
from tests.support.rtx_models import STAND_IN

HERE = Path(__file__).parent
DIFFERS = "ignore:Use Deprecated in TensorRT-RTX 1.2. Timing cache operations are no-ops"
"""It compiles kernels where an engine is first run, so that there is nothing to time at a build."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(DIFFERS))


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What the kit imports as ``tensorrt``, here and in the processes that it starts."""
    # Not syspath_prepend: it also takes away what ONNX Runtime appends meanwhile.
    sys.path.insert(0, str(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield versions.library()
    sys.path.remove(str(STAND_IN))
    sys.modules.pop("tensorrt", None)
