"""Rows 28, 30, 31 and 48: what a repack does not write, and checkpoints whose pickle runs code.

Row 48 in all its kinds: tests/unit/repack/test_gate_any_model.py.
"""

from __future__ import annotations

import builtins
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from repack import archive
from tests.support import made, odd_models
from tests.support.bench import Bench

TINY = ("--backend", "onnxruntime", "--precision", "f32", "--name", "tiny")


@contextmanager
def small_disk(where: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes."""
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "kit-test", str(where)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        where.rmdir()
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)
        where.rmdir()


def one_line(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """The error of a run that failed, on the last line, with no traceback before it."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    for word in words:
        assert word in last, last
    return last


@pytest.mark.parametrize("room", [pytest.param(4096, marks=pytest.mark.slow), 20_000])
def test_row_28_a_full_disk_leaves_the_old_archive_as_it_was(served: Bench, room: int) -> None:
    size = made.tensors().stat().st_size
    assert size > room + 8192
    with small_disk(served.room / "small", (size + room + 8191) // 4096 * 4096) as store:
        old = store / "tiny.mar"
        old.write_bytes(made.tensors().read_bytes())
        done = made.repack(
            *TINY, "--weights", made.tiny_onnx(), "--version", "2.0", "--model-store", store
        )
        one_line(done, str(store), "the disk is full; the archives there are as they were")
        assert [p.name for p in store.iterdir()] == ["tiny.mar"]
        assert archive.verify(old).version == "1.0"


@pytest.mark.parametrize(
    "backend", [pytest.param("torchscript", marks=pytest.mark.slow), "openvino"]
)
def test_row_28_a_full_disk_for_temporary_files(
    served: Bench, tmp_path: Path, backend: str
) -> None:
    weights: tuple[str | Path, ...] = ("--imgsz", "64")
    if backend == "openvino":
        weights = ("--weights", large_onnx(tmp_path))
    with small_disk(served.room / "small", 192 * 1024) as temporary:
        flags = ("--backend", backend, "--precision", "f32", "--model-store", tmp_path / "store")
        one_line(made.repack(*flags, *weights, temporary=temporary), str(temporary), "MB free")
        assert [p.name for p in temporary.iterdir()] == []
    assert not (tmp_path / "store").exists()


def large_onnx(folder: Path) -> Path:
    """A model of 150 KB: its first copy fits on the small disk, the second does not."""
    weights = np.random.default_rng(1).normal(size=(192, 192)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 192])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 192])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, folder / "large.onnx")
    return folder / "large.onnx"


def test_row_28_no_room_for_the_report_alone(served: Bench) -> None:
    """The archive is whole by then, so it stays and the run succeeds."""
    size = made.tensors().stat().st_size
    with small_disk(served.room / "small", (size + 4095) // 4096 * 4096 + 4096) as store:
        (store / "filler").write_bytes(bytes(4096))
        done = made.repack(*TINY, "--weights", made.tiny_onnx(), "--model-store", store)
        assert done.returncode == 0, done.stderr
        for report in ("tiny.report.json", "tiny.report.html"):
            assert f"{report} was not written (No space left on device)" in done.stderr
        assert archive.verify(store / "tiny.mar").name == "tiny"
        assert sorted(p.name for p in store.iterdir()) == ["filler", "tiny.mar"]


def test_row_28_a_store_that_may_not_be_written(served: Bench) -> None:
    blocked = made.folder() / "a-file"
    blocked.write_text("x")
    done = made.repack(*TINY, "--weights", made.tiny_onnx(), "--model-store", blocked)
    one_line(done, str(blocked))
    assert blocked.read_text() == "x"


def test_row_30_two_repacks_of_one_name_at_once(served: Bench, tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [
                *(sys.executable, str(made.REPACK), *TINY, "--version", version),
                *("--weights", str(made.tiny_onnx()), "--model-store", str(tmp_path)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(made.folder())},
        )
        for version in ("1.0", "2.0")
    ]
    for run in runs:
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
    assert archive.verify(tmp_path / "tiny.mar").version in ("1.0", "2.0")
    names = ["tiny.mar", "tiny.report.html", "tiny.report.json"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    """Two processes, with other hash seeds and folders; so does the report, its times apart."""
    stores = [tmp_path / "one", tmp_path / "two"]
    shape = ("--input-shape", "x=batchx3x8x8")
    for store in stores:
        weights = ("--weights", str(made.tiny_torchscript()))
        flags = ("--trt", "0", "--name", "t", *weights, *shape, "--model-store", store)
        made.repacked(*flags, fresh=store is stores[0])
    assert len({(store / "t.mar").read_bytes() for store in stores}) == 1
    reports = [json.loads((store / "t.report.json").read_text()) for store in stores]
    for found, store in zip(reports, stores, strict=True):
        found["command"] = found["command"].replace(str(store), "store")
        for candidate in found["candidates"]:
            assert candidate.pop("ms") > 0 and candidate.pop("per_item_ms") > 0
    assert reports[0] == reports[1]


def test_row_48_what_the_gate_refuses_is_not_packed(served: Bench, tmp_path: Path) -> None:
    """Row 48: an answer that depends on its batch."""
    path = odd_models.traced(tmp_path / "m.pt", odd_models.Centred(), torch.zeros(2, 3, 16, 16))
    flags = ("--task", "classification", "--input-shape", "x=batchx3x16x16", "--name", "m")
    store = tmp_path / "store"
    done = made.repack("--weights", path, *flags, "--scores", "logits", "--model-store", store)
    one_line(done, str(path), "depends on the others in its batch")
    assert not store.exists()


class Runs:
    """Its pickle calls ``what`` with ``given``."""

    def __init__(self, what: Any, *given: Any):
        self.what, self.given = what, given

    def __reduce__(self) -> Any:
        return self.what, self.given


def attack(kind: str, canary: Path) -> tuple[Any, str]:
    """Something that writes the canary when it is unpickled, and the import it is made of."""
    touch = f"touch {canary}"
    return {
        "system": (Runs(os.system, touch), "posix.system"),
        "eval": (Runs(builtins.eval, f"__import__('os').mkdir({str(canary)!r})"), "builtins.eval"),
        "exec": (Runs(builtins.exec, f"import os; os.mkdir({str(canary)!r})"), "builtins.exec"),
        "popen": (Runs(subprocess.Popen, ["touch", str(canary)]), "subprocess.Popen"),
    }[kind]


def saved(value: Any, path: Path, form: str) -> Path:
    """As ``torch.save`` writes it now, as it did before 1.6, or as a bare pickle."""
    if form == "bare":
        path.write_bytes(pickle.dumps(value))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=form == "zip")
    return path


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("system", "zip"),
        pytest.param("eval", "legacy", marks=pytest.mark.slow),
        pytest.param("popen", "bare", marks=pytest.mark.slow),
    ],
)
def test_row_31_a_pickle_that_runs_code_is_refused(
    served: Bench, tmp_path: Path, kind: str, form: str
) -> None:
    """Every kind in every form: tests/unit/repack/sources/test_pickles.py."""
    canary = tmp_path / "ran"
    value, name = attack(kind, canary)
    path = saved({"model": value, "names": ["a"]}, tmp_path / "evil.pt", form)
    done = made.repack("--weights", path, "--model-store", tmp_path / "store")
    line = one_line(done, str(path), name)
    assert len(line) < 700
    assert not canary.exists()
    assert not (tmp_path / "store").exists()


def test_row_31_the_attack_itself_works(tmp_path: Path) -> None:
    """The canary would have been written: the tests above can fail."""
    for kind in ("system", "eval", "popen"):
        canary = tmp_path / kind
        value, _ = attack(kind, canary)
        made_by = pickle.loads(pickle.dumps(value))  # noqa: S301
        if kind == "popen":
            made_by.wait()
        assert canary.exists()


def test_row_31_hidden_deep_inside_a_real_looking_checkpoint(served: Bench, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    value, name = attack("exec", canary)
    state = {"model.0.conv.weight": torch.zeros(16, 3, 6, 6), "extra": {"list": [1, (value,)]}}
    path = saved({"state_dict": state, "epoch": 3}, tmp_path / "evil.pt", "zip")
    one_line(made.repack("--weights", path, "--model-store", tmp_path / "store"), name)
    assert not canary.exists()


def test_row_31_a_torchscript_file_with_a_pickle_inside(served: Bench, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    value, _ = attack("system", canary)
    path = tmp_path / "evil.torchscript"
    with zipfile.ZipFile(made.tiny_torchscript()) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(
                info, pickle.dumps(value, 2) if info.filename.endswith("data.pkl") else data
            )
    flags = ("--name", "t", "--input-shape", "1x3x8x8", "--model-store", tmp_path / "store")
    one_line(made.repack("--weights", path, *flags), str(path))
    assert not canary.exists()
