"""The process that builds one engine: what it is told, what it answers, how it may end."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from handlers.engines import job
from handlers.engines.build import BuildFailed, Built, Job
from handlers.engines.job import Answer, ended, run

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


def test_the_engine_is_written_and_the_answer_tells_what_was_relaxed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = replace(JOB, out=str(tmp_path / "out.plan"))
    monkeypatch.setattr(job, "build", lambda _: Built(b"engine", "no kernel"))
    assert job.main(written(given, tmp_path)) == 0
    answer = Answer(**json.loads(capsys.readouterr().out))
    assert answer.relaxed == "no kernel"
    assert Path(given.out).read_bytes() == b"engine"


def failing(given: Job) -> Built:
    raise ValueError(f"for {given.precision}\nand more")


def test_whatever_is_raised_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "build", failing)
    assert job.main(written(JOB, tmp_path)) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "ValueError: for int8"}


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_process_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match=r"^tensorrt cannot be loaded .*pip install"):
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
    with pytest.raises(BuildFailed) as refused:
        run(JOB, tmp_path, stop=lambda: True)
    assert str(refused.value) == reason
    assert time.monotonic() - begin < 30


def test_a_killed_build_is_one_line() -> None:
    assert ended(-9, "").endswith("killed: mostly by the kernel, for want of host memory")
    assert ended(-11, "a\nb").startswith("the building process was ended by signal 11 (b)")
    assert "exit status 3 (nothing was said)" in ended(3, "")
    assert all("\n" not in ended(code, "one\ntwo\n") for code in (-9, -11, 1))
