"""Rows 19 to 21, 29, 32 and 33: archives from elsewhere, changed, cut short, or made to harm.

Rows 19 to 21 with real engines need a GPU: tests/gpu/test_gpu_detector.py. Here an archive with an
engine meets a machine without one.
"""

from __future__ import annotations

import shutil
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from deploy.torchserve import flow
from deploy.torchserve.archives import survey
from handlers import passport as passports
from repack import archive
from tests.support import engines, made
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


def with_engine(source: Path, target: Path) -> Path:
    """The same archive whose fast artefact is a TensorRT engine, or bytes that are called so."""
    stage = target.with_suffix(".stage")
    record = archive.unpack(source, stage)
    (stage / "t").mkdir()
    (stage / "t" / "a.plan").write_bytes(b"ftrt" + bytes(100))
    engine = replace(engines.artefact(), output=record.artefacts["accelerated"].output)
    files = {n: d for n, d in record.files.items() if not n.startswith("onnxruntime")}
    files["t/a.plan"] = passports.sha256(stage / "t" / "a.plan")
    shutil.rmtree(stage / "onnxruntime-f32")
    artefacts = {**record.artefacts, "accelerated": engine}
    record = replace(record, files=files, artefacts=artefacts)
    (stage / passports.FILE).write_text(record.to_json())
    archive.pack(stage, target)
    shutil.rmtree(stage)
    return target


def with_member(source: Path, target: Path, info: zipfile.ZipInfo, data: bytes) -> Path:
    """The same archive and one more member."""
    shutil.copyfile(source, target)
    with zipfile.ZipFile(target, "a") as z:
        z.writestr(info, data)
    return target


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("handlers/escaped.py")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def bomb() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("escaped.bin")
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


HARMFUL = {
    "climbs": (zipfile.ZipInfo("../escaped"), b"x", "'../escaped' points outside the archive"),
    "sibling": (zipfile.ZipInfo("../sibling2/escaped"), b"x", "points outside the archive"),
    "absolute": (zipfile.ZipInfo("/tmp/escaped"), b"x", "points outside the archive"),  # noqa: S108
    "linked": (link(), b"/etc/passwd", "'handlers/escaped.py' is a link or device"),
    "bomb": (bomb(), bytes(64 << 20), "unpacks to 67,"),
}


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
        "engine": with_engine(made.detector(), folder / "engine.mar"),
        **{
            name: with_member(made.tensors(), folder / f"{name}.mar", info, data)
            for name, (info, data, _) in HARMFUL.items()
        },
    }
    with bench(archives, ("good", npy(ARRAY))) as found:
        found.server.wait_ready("falls")
        found.server.wait_ready("engine")
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
    assert [a.name for a in served] == ["engine", "falls", "good", "lacks", "victim"]
    (line,) = (line for line in refused if line.startswith("cut.mar: "))
    assert "truncated or damaged" in line
    assert "\n" not in line
    models = calm.ask(b"", purpose="management", path="/models").json()["models"]
    assert {m["modelName"] for m in models} == {"engine", "falls", "good", "lacks", "victim"}
    assert calm.ask(GOOD, "cut").status == 404


def test_row_29_run_sh_names_it_too(calm: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    flow.check_archives(calm.server.settings)
    shown = capsys.readouterr().out
    assert "refused  cut.mar: " in shown
    assert "refused  flipped.mar: " in shown
    assert "archives engine 1.0 (detection), falls 1.0 (detection), good 1.0 (tensors)" in shown


@pytest.mark.parametrize("name", HARMFUL)
def test_rows_32_and_33_an_archive_made_to_harm_is_refused(calm: Bench, name: str) -> None:
    """Row 32: paths that lead outside, links. Row 33: far more than it holds."""
    _, refused = survey(calm.store)
    (line,) = (line for line in refused if line.startswith(f"{name}.mar: "))
    assert HARMFUL[name][2] in line
    assert "\n" not in line
    assert calm.ask(GOOD, name).status == 404
    outside = (*calm.room.rglob("*escaped*"), *Path("/tmp").glob("escaped*"))  # noqa: S108
    assert not [*outside, *calm.room.rglob("sibling2")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_row_19_an_engine_without_its_gpu_falls_back_and_says_so(calm: Bench) -> None:
    reply = calm.ask(GOOD, "engine")
    assert reply.status == 200
    runtime = reply.json()["runtime"]
    assert runtime["name"] == "torchscript"
    reason = runtime["fallback"]
    assert reason.startswith("tensorrt needs an NVIDIA GPU that PyTorch ")
    assert reason.endswith("; the portable torchscript module serves instead")
    assert f"FALLBACK fd1: {reason}" in log(calm)
    assert reply.json()["detections"]


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
