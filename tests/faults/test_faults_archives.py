"""Rows 20, 21 and 29: archives that were changed, cut short, or need a library that is missing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from deploy.torchserve import flow
from deploy.torchserve.archives import survey
from handlers import passport as passports
from repack import archive
from tests.support import made
from tests.support.bench import GOOD, Bench, bench
from tests.support.bodies import ARRAY, npy

BLOCKED = "raise ImportError(\"No module named 'onnxruntime'\", name='onnxruntime')\n"


def without_onnxruntime(source: Path, target: Path) -> Path:
    """The same archive with a package of its own that hides the installed ONNX Runtime."""
    stage = target.with_suffix(".stage")
    record = archive.unpack(source, stage)
    (stage / "onnxruntime.py").write_text(BLOCKED)
    files = {**record.files, "onnxruntime.py": passports.sha256(stage / "onnxruntime.py")}
    (stage / passports.FILE).write_text(replace(record, files=files).to_json())
    archive.pack(stage, target)
    shutil.rmtree(stage)
    return target


def cut(source: Path, target: Path) -> Path:
    target.write_bytes(source.read_bytes()[:-2000])
    return target


def flipped(source: Path, target: Path) -> Path:
    """One bit of the stored model file, in the middle of the archive."""
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 4
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A store with good archives, damaged ones, and ones whose library is missing."""
    folder = tmp_path_factory.mktemp("mixed")
    archives = {
        "good": made.tensors(),
        "victim": made.tensors(),
        "cut": cut(made.detector(), folder / "cut.mar"),
        "flipped": flipped(made.detector(), folder / "flipped.mar"),
        "falls": without_onnxruntime(made.detector(), folder / "falls.mar"),
        "lacks": without_onnxruntime(made.tensors(), folder / "lacks.mar"),
    }
    with bench(archives, ("good", npy(ARRAY))) as found:
        found.server.wait_ready("falls")
        found.server.wait_ready("victim")
        yield found


@pytest.fixture
def calm(mixed: Bench) -> Iterator[Bench]:
    """The mixed server, checked after the test: the good model answers, nothing was left behind."""
    pids, files = mixed.pids("good"), mixed.files()
    yield mixed
    assert mixed.ask(npy(ARRAY)).status == 200
    assert mixed.pids("good") == pids
    assert mixed.files() - files == set()


def log(where: Bench) -> str:
    return where.server.workers_log.read_text(errors="replace")


def eventually(what: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.2)
    return False


def test_row_29_a_truncated_archive_is_refused_by_name_and_the_others_serve(calm: Bench) -> None:
    served, refused = survey(calm.store)
    assert [a.name for a in served] == ["falls", "good", "lacks", "victim"]
    (line,) = (line for line in refused if line.startswith("cut.mar: "))
    assert "truncated or damaged" in line
    assert "\n" not in line
    models = calm.ask(b"", purpose="management", path="/models").json()["models"]
    assert {m["modelName"] for m in models} == {"falls", "good", "lacks", "victim"}
    assert calm.ask(GOOD, "cut").status == 404


def test_row_29_run_sh_names_it_too(calm: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    flow.check_archives(calm.server.settings)
    shown = capsys.readouterr().out
    assert "refused  cut.mar: " in shown
    assert "refused  flipped.mar: " in shown
    assert "archives falls 1.0 (detection), good 1.0 (tensors)" in shown


def test_row_20_a_flipped_byte_is_refused_before_the_server_starts(calm: Bench) -> None:
    _, refused = survey(calm.store)
    (line,) = (line for line in refused if line.startswith("flipped.mar: "))
    assert "model." in line
    assert "\n" not in line


def test_row_20_a_worker_refuses_a_file_that_changed_under_it(calm: Bench) -> None:
    """By checksum, before anything of the file is read by a runtime."""
    body = npy(ARRAY)
    assert calm.ask(body, "victim").status == 200
    unpacked = Path(calm.server.state.temp)
    (model,) = {path.resolve() for path in unpacked.glob("**/victim/*/model.onnx")}
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    (pid,) = calm.pids("victim")
    psutil.Process(pid).kill()
    expected = "REFUSED victim: onnxruntime-f32/model.onnx: checksum "
    assert eventually(lambda: expected in log(calm)), log(calm)[-2000:]
    (line, *_) = (x for x in log(calm).splitlines() if expected in x)
    assert "the passport says" in line
    assert "changed since it was packed, so it is not loaded" in line


def test_row_21_a_missing_library_falls_back_and_says_so(calm: Bench) -> None:
    reply = calm.ask(GOOD, "falls")
    assert reply.status == 200
    runtime = reply.json()["runtime"]
    reason = (
        "onnxruntime cannot be loaded (No module named 'onnxruntime'): pip install onnxruntime; "
        "the portable torchscript module serves instead"
    )
    assert runtime == {"name": "torchscript", "precision": "f32", "fallback": reason}
    assert f"FALLBACK fd1: {reason}" in log(calm)
    status = calm.ask(b"", "falls", "management", "/models/{}?customized=true")
    assert reason in status.body.decode()
    boxes = [d["box"] for d in reply.json()["detections"]]
    assert np.isfinite(boxes).all()
    assert len(boxes) > 0


def test_row_21_without_a_portable_form_the_model_says_what_to_install(calm: Bench) -> None:
    from handlers.errors import KitError

    with pytest.raises(KitError) as caught:
        calm.server.wait_ready("lacks")
    assert str(caught.value) == (
        "model lacks cannot be loaded: onnxruntime cannot be loaded "
        "(No module named 'onnxruntime'): pip install onnxruntime"
    )
    assert "REFUSED lacks: onnxruntime cannot be loaded" in log(calm)
