"""Engines built again on load: who builds, who waits, what is believed, and what is said."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.artefact import Rebuild
from handlers.engines import rebuild
from handlers.engines.build import Job
from handlers.engines.job import Answer
from handlers.errors import RuntimeUnfit
from handlers.passport import TensorSpec, sha256
from tests.support.engines import MACHINE, SHAPE, artefact

HOW = Rebuild(
    weakly_typed="t/rebuild.onnx",
    strongly_typed=None,
    ranges=None,
    check="t/rebuild.npz",
    relative_l2=1e-2,
    level=0,
    workspace=1 << 20,
)
ARTEFACT = artefact(rebuild=HOW)


def rebuilt(folder: Path) -> Path:
    """Where the first call left its record."""
    (found,) = (folder / "rebuilt").iterdir()
    return found


def spent(folder: Path) -> Path:
    """A folder in which a worker built an engine."""
    with pytest.raises(RuntimeUnfit):
        rebuild.engines(folder, ARTEFACT, MACHINE, typed=False)
    there = rebuilt(folder)
    (there / "model-0.plan").write_bytes(b"ftrt")
    record = {"engines": {"model-0.plan": sha256(there / "model-0.plan")}}
    (there / rebuild.RECORD).write_text(json.dumps(record))
    return there


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_a_failed_build_is_one_line_and_is_not_tried_again(tmp_path: Path) -> None:
    """Real: the building process runs and finds no TensorRT."""
    for _ in range(2):
        with pytest.raises(RuntimeUnfit, match="building it again failed") as refused:
            rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)
        assert "\n" not in str(refused.value)
        (rebuilt(tmp_path) / "job.json").unlink(missing_ok=True)  # written by a build only
    assert not (rebuilt(tmp_path) / "job.json").exists()


def test_the_job_is_what_the_archive_says_on_the_workers_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[Job] = []

    def run(job: Job, folder: Path) -> Answer:
        asked.append(job)
        Path(job.out).write_bytes(b"ftrt")
        return Answer(1.0, "no kernel")

    monkeypatch.setattr(rebuild, "run", run)
    given = artefact("int8", rebuild=replace(HOW, ranges="ranges.json"))
    (found,) = rebuild.engines(tmp_path, given, MACHINE, typed=False, gpu=3)
    (job,) = asked
    assert (job.out, job.timing) == (str(found), str(found.with_name("timing.cache")))
    packed = tmp_path / "t"
    assert (job.onnx, job.int8) == (str(packed / "rebuild.onnx"), str(packed / "ranges.json"))
    assert (job.precision, job.profiles) == ("int8", {"x": SHAPE})
    assert (job.level, job.workspace, job.gpu) == (0, 1 << 20, 3)
    assert "no kernel" in caplog.text


def test_what_an_earlier_worker_built_is_taken(tmp_path: Path) -> None:
    there = spent(tmp_path)
    assert rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False) == [there / "model-0.plan"]


def test_a_touched_engine_is_not_believed(tmp_path: Path) -> None:
    there = spent(tmp_path)
    (there / "model-0.plan").write_bytes(b"ftrT")
    with pytest.raises(RuntimeUnfit, match="is not what was built"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)


def test_another_machine_has_its_own_engines(tmp_path: Path) -> None:
    spent(tmp_path)
    with pytest.raises(RuntimeUnfit, match="building it again failed"):
        rebuild.engines(tmp_path, ARTEFACT, {**MACHINE, "gpu": "NVIDIA L4"}, typed=False)
    assert len(list((tmp_path / "rebuilt").iterdir())) == 2


def test_a_worker_waits_for_the_one_that_builds(tmp_path: Path) -> None:
    there = spent(tmp_path)
    done: list[float] = []
    with (there / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def work() -> None:
            rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)
            done.append(time.monotonic())

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        assert not done
    thread.join(10)
    assert done


def test_without_a_file_for_this_tensorrt_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnfit, match="no ONNX file for this TensorRT"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=True)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rebuilt").write_text("in the way")
    with pytest.raises(RuntimeUnfit, match="cannot be written"):
        rebuild.engines(tmp_path, ARTEFACT, MACHINE, typed=False)


class Answers:
    """A runtime that doubles, and adds ``error`` at one batch size."""

    def __init__(self, folder: Path, error: float = 0.0, at: int = 4):
        self.folder, self.options, self.error, self.at = folder, ARTEFACT.options, error, at
        self.inputs = (TensorSpec("x", "float32", ("batch", 3, 8, 8)),)
        self.asked: list[int] = []

    def infer(self, inputs: dict[str, Any], every: bool = False) -> dict[str, Any]:
        self.asked.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2 + (self.error if len(inputs["x"]) == self.at else 0)}


def packed(folder: Path) -> Path:
    (folder / "t").mkdir()
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "t" / "rebuild.npz", **{"in/x": x, "out/y": x * 2})  # type: ignore[arg-type]
    return folder


def test_every_batch_size_is_compared(tmp_path: Path) -> None:
    right: Any = Answers(packed(tmp_path), 0.001)
    rebuild.check(right)
    assert right.asked == [1, 4]
    wrong: Any = Answers(tmp_path, 0.1)
    with pytest.raises(RuntimeUnfit, match="differs from the original"):
        rebuild.check(wrong)
    odd: Any = Answers(tmp_path, float("nan"), at=1)
    with pytest.raises(RuntimeUnfit, match="relative L2 error nan"):
        rebuild.check(odd)
