"""Types that int8 demands, and what becomes of them where TensorRT 8 has no such kernel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import build
from handlers.engines.build import BuildFailed, Job
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
    reason: str, tensors: set[str], builds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def tries(trt: Any, job: Job, int8: Int8, calibrator: Any) -> bytes:
        tried.append(int8)
        if len(tried) == 1:
            raise BuildFailed(reason)
        return b"engine"

    monkeypatch.setattr(build, "_build", tries)
    monkeypatch.setattr("handlers.engines.versions.library", lambda: None)
    told = {"ranges": {"y": 1.0}, "floats": ["a"], "between": sorted(tensors)}
    (tmp_path / "ranges.json").write_text(json.dumps(told))
    demands = Int8({"y": 1.0}, frozenset({"a"}), frozenset(tensors))
    job = Job("m.onnx", "", "int8", {}, int8=str(tmp_path / "ranges.json"))
    if builds == 2:
        assert build.build(job) == (b"engine", reason)
        assert tried == [demands, replace(demands, float_tensors=frozenset())]
    else:
        with pytest.raises(BuildFailed, match=reason):
            build.build(job)
        assert tried == [demands]
