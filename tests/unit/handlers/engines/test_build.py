"""Types that int8 demands, and what becomes of them where TensorRT 8 has no such kernel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import build
from handlers.engines.versions import Int8


@pytest.mark.parametrize(
    ("reason", "tensors", "builds"),
    [
        ("Could not find any implementation for node a", {"y"}, 2),
        ("Could not find any implementation for node a", set(), 1),
        ("out of memory", {"y"}, 1),
    ],
)
def test_types_that_no_kernel_has_are_only_preferred(
    reason: str, tensors: set[str], builds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def tries(trt: Any, log: Any, fill: Any, spec: build.EngineSpec, *_: Any) -> bytes:
        tried.append(spec.int8)
        if len(tried) == 1:
            raise build.BuildFailed(reason)
        return b"engine"

    monkeypatch.setattr(build, "build", tries)
    monkeypatch.setattr("handlers.engines.versions.library", lambda: None)
    monkeypatch.setattr(build, "Log", lambda trt: None)
    demands = Int8({"y": 1.0}, frozenset({"a"}), frozenset(tensors))
    spec = build.EngineSpec("int8", {}, int8=demands)
    if builds == 2:
        assert build.from_onnx(Path("m.onnx"), spec) == (b"engine", reason)
        assert tried == [demands, replace(demands, float_tensors=frozenset())]
    else:
        with pytest.raises(build.BuildFailed, match=reason):
            build.from_onnx(Path("m.onnx"), spec)
    assert len(tried) == builds
