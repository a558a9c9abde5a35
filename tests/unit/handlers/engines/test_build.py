"""Types that TensorRT 8 has no kernel for, and the GPU that an engine is built on.

Around stand-ins; ``tests/tensorrt_rtx`` builds for real.
"""

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


@pytest.mark.parametrize(("gpu", "said"), [(0, []), (2, ["set 2", "a tensor on cuda"])])
def test_another_gpu_than_the_first_is_made_current_before_anything_is_built(
    gpu: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("torch.cuda.set_device", lambda number: done.append(f"set {number}"))
    monkeypatch.setattr("torch.zeros", lambda _, device: done.append(f"a tensor on {device}"))
    monkeypatch.setattr("handlers.engines.versions.library", lambda: done.append("TensorRT"))
    monkeypatch.setattr(build, "_build", lambda *_: b"engine")
    build.build(Job("m.onnx", "", "f32", {}, gpu=gpu))
    assert done == [*said, "TensorRT"]
