"""The process that builds one engine: what it is told, what it answers, how it may end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import build, job
from handlers.engines.job import Answer, Job, ended, run
from handlers.engines.versions import Int8

JOB = Job(
    onnx="m.onnx",
    out="out.plan",
    precision="int8",
    profiles={"x": ((1, 3), (2, 3), (4, 3))},
    level=0,
    workspace=1,
    timing="timing.cache",
)


def written(given: Job, folder: Path) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(asdict(given)))
    return path


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = Job.read(written(JOB, tmp_path))
    assert found.profiles == JOB.profiles
    assert replace(found, outputs=tuple(found.outputs)) == JOB


def test_the_answer_tells_what_was_relaxed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ranges.json").write_text('{"ranges": {"y": 2.0}, "floats": ["a"], "between": []}')
    asked: list[build.EngineSpec] = []

    def from_onnx(source: Path, spec: build.EngineSpec, *_: Any) -> build.Built:
        asked.append(spec)
        return build.Built(b"engine", "no kernel")

    monkeypatch.setattr(build, "from_onnx", from_onnx)
    monkeypatch.setattr("handlers.engines.versions.library", lambda: None)
    out, ranges = str(tmp_path / "out.plan"), str(tmp_path / "ranges.json")
    assert job.main(written(replace(JOB, out=out, int8=ranges), tmp_path)) == 0
    told = Int8({"y": 2.0}, frozenset({"a"}))
    assert asked == [build.EngineSpec("int8", JOB.profiles, 0, 1, told)]
    answer = Answer(**json.loads(capsys.readouterr().out))
    assert answer.relaxed == "no kernel"
    assert Path(out).read_bytes() == b"engine"


def failing(trt: Any, given: Job) -> None:
    raise ValueError(f"for {given.precision}\nand more")


def test_whatever_is_raised_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("handlers.engines.versions.library", lambda: None)
    monkeypatch.setattr(job, "_function", lambda name: globals()[name])
    assert job.main(written(replace(JOB, calibrator="failing"), tmp_path)) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "ValueError: for int8"}


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_process_says_so(tmp_path: Path) -> None:
    with pytest.raises(build.BuildFailed, match=r"^tensorrt cannot be loaded .*pip install"):
        run(JOB, tmp_path)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("time.sleep(60)", "the building process was killed: mostly by the kernel, for want of "
         "host memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the building process was ended by signal 11 "
         "(nothing was said); too little memory does that, too"),
        ("os._exit(3)", "the building process ended with exit status 3 (nothing was said); too "
         "little memory does that, too"),
    ],
)  # fmt: skip
def test_a_build_that_is_stopped_or_crashes_is_one_line(
    what: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text(f"import os, signal, time\n{what}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(build.BuildFailed) as refused:
        run(JOB, tmp_path, stop=lambda: True)
    assert str(refused.value) == reason
    assert time.monotonic() - begin < 30


def test_a_killed_build_is_one_line() -> None:
    assert ended(-9, "").endswith("killed: mostly by the kernel, for want of host memory")
    assert ended(-11, "a\nb").startswith("the building process was ended by signal 11 (b)")
    assert "exit status 3 (nothing was said)" in ended(3, "")
    assert all("\n" not in ended(code, "one\ntwo\n") for code in (-9, -11, 1))
