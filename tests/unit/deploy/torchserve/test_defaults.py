"""Workers and batches where the served archive runs on a GPU."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.torchserve import defaults
from deploy.torchserve.settings import make, parse
from handlers.artefact import OPTIONS, Artefact
from handlers.passport import Passport
from tests.support.detector_maps import HEAD


def archive(
    store: Path, name: str, runtime: str, task: str = "detection", program: str = ""
) -> None:
    """As much of an archive as defaults look at."""
    told = {"outputs": (), "built": {}, "engines": (), "via": "onnx"}
    options = OPTIONS[runtime](**(told if runtime == "tensorrt" else {}))
    artefact = Artefact(runtime, ("model",), "f16", {}, "tensors", options)
    record = Passport(name, "1.0", task, "", {}, (), (), (), {}, {"accelerated": artefact}, {}, {})
    if task == "detection":
        record = replace(record, settings={"head": HEAD.to_setting()})
    with zipfile.ZipFile(store / f"{name}.mar", "w") as z:
        z.writestr("passport.json", record.to_json())
        if program:
            z.writestr(program, "")


@pytest.mark.parametrize(
    ("gpus", "cores", "workers"), [(1, 16, 6), (1, 4, 2), (1, 1, 1), (2, 32, 12), (4, 16, 8)]
)
def test_workers_follow_gpus_and_cores(tmp_path: Path, gpus: int, cores: int, workers: int) -> None:
    archive(tmp_path, "fd1", "tensorrt")
    found = make(defaults.of(tmp_path, "fd1", gpus, cores))
    assert (found.workers, found.batch_size, found.max_batch_delay) == (workers, 32, 1)
    assert found.queue == 1000


@pytest.mark.parametrize(
    ("gpus", "cores", "workers"), [(1, 16, 12), (1, 4, 3), (1, 1, 1), (2, 64, 24), (4, 16, 12)]
)
@pytest.mark.parametrize("program", sorted(defaults.SHARING))
def test_workers_that_share_a_detector_are_more(
    tmp_path: Path,
    gpus: int,
    cores: int,
    workers: int,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    archive(tmp_path, "fd1", "tensorrt")  # packed before one process served several workers
    assert make(defaults.of(tmp_path, "fd1", gpus, cores)).batch_size == 32
    archive(tmp_path, "fd1", "tensorrt", program=program)
    found = make(defaults.of(tmp_path, "fd1", gpus, cores))
    assert (found.workers, found.batch_size, found.max_batch_delay) == (workers, 16, 1)
    monkeypatch.setenv("KIT_OWN_GPU_PROCESS", "1")
    assert make(defaults.of(tmp_path, "fd1", gpus, cores)).batch_size == 32


@pytest.mark.parametrize(
    ("runtime", "name", "gpus"),
    [("openvino", "fd1", 1), ("tensorrt", "other", 1), ("tensorrt", "fd1", 0)],
)
def test_without_a_gpu_or_its_runtime_nothing_changes(
    tmp_path: Path, runtime: str, name: str, gpus: int
) -> None:
    archive(tmp_path, "fd1", runtime)
    assert defaults.of(tmp_path, name, gpus, 16) == {"max_request_mb": "64"}


def test_volumes_beside_a_detector_keep_their_limits(tmp_path: Path) -> None:
    archive(tmp_path, "fd1", "tensorrt")
    archive(tmp_path, "seg", "tensorrt", "segmentation")
    (tmp_path / "odd.mar").write_bytes(b"PK")
    found = defaults.of(tmp_path, "fd1", 1, 16)
    assert (found["max_request_mb"], found["workers"]) == ("512", "6")
    assert "workers" not in defaults.of(tmp_path, "seg", 1, 16)


@pytest.mark.parametrize(
    ("tasks", "most"),
    [
        (["detection", "classification"], 64),
        (["detection", "tensors"], 256),
        (["tensors", "detection", "segmentation"], 512),
        ([], 256),
    ],
)
def test_the_largest_request_is_what_the_store_needs(
    tmp_path: Path, tasks: list[str], most: int
) -> None:
    for task in tasks:
        archive(tmp_path, task, "openvino", task)
    assert make(defaults.of(tmp_path, "fd1", 0, 4)).max_request_mb == most


def test_what_is_asked_for_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path, "fd1", "tensorrt")
    monkeypatch.setattr(defaults, "gpus", lambda: 1)
    _, found = parse(["--model-store", str(tmp_path), "--workers", "3"], {"BATCH_SIZE": "8"})
    assert (found.workers, found.batch_size, found.queue) == (3, 8, 1000)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_from_cuda_do_not_count(
    hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([Path("/dev/nvidia0")]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert defaults.gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert defaults.gpus() == 0
