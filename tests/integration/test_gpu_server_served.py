"""Workers of a real server that share one GPU server; only its work on the GPU stands aside."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests

from deploy.torchserve.server import Server
from handlers import images
from handlers.artefact import Artefact, TensorRTOptions
from handlers.passport import Passport, TensorSpec
from qpstest import processes
from repack import archive
from tests.support import gpu_server_program as program
from tests.support.detector_maps import HEAD
from tests.support.servers import serving, settings_for

ROOT = Path(__file__).resolve().parents[2]
PICTURES = sorted((ROOT / "examples" / "pictures").glob("*.jpg"))
FILES = [data for p in PICTURES if images.peek(data := p.read_bytes()).plain_jpeg]
WORKERS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    write_detector(store)
    settings = settings_for(
        store, tmp_path_factory.mktemp("run") / "run", workers=WORKERS, batch_size=8
    )
    with serving(settings) as running:
        yield running


def write_detector(store: Path) -> None:
    """An archive as a GPU machine makes it, but for ``tests.support.gpu_server_program`` in it."""
    stage = store / "stage"
    archive.stage_handlers(stage)
    folder = stage / "handlers" / "gpu" / "server"
    (folder / "process.py").rename(folder / "real.py")
    code = Path(program.__file__).read_text()
    code = code.replace(
        "from handlers.gpu.server import process", "from handlers.gpu.server import real as process"
    )
    (folder / "process.py").write_text(code)
    (stage / "model.plan").write_bytes(b"an engine")
    options = TensorRTOptions(outputs=(), batches=(1, 16), built={}, engines=(), via="onnx")
    engine = Artefact("tensorrt", ("model.plan",), "f16", {"label": "f16"}, "tensors", options)
    passport = Passport(
        name="fd1",
        version="1.0",
        task="detection",
        handler="handlers.detection:DetectionHandler",
        source={},
        inputs=(TensorSpec("images", "uint8", ("batch", 640, 640, 3), (0, 255), "NHWC"),),
        outputs=(),
        labels=("thing",),
        settings={**program.SETTINGS, "head": HEAD.to_setting()},
        artefacts={"accelerated": engine},
        gate={},
        versions={},
    )
    archive.finish_stage(stage, passport)
    archive.pack(stage, store / "fd1.mar")


def ask(server: Server, data: bytes) -> requests.Response:
    url = f"http://127.0.0.1:{server.settings.port}/predictions/fd1"
    return requests.post(url, data=data, timeout=60)


def right(answer: requests.Response, data: bytes) -> bool:
    """Whether this answer was made of these bytes."""
    number = program.number_of(data)
    told = json.loads(answer.content)
    (box,) = told["detections"]
    # The program's letterboxes: half as large, shifted by the number and by 7.
    return (
        answer.status_code == 200
        and told["runtime"] == {"name": "tensorrt", "precision": "f16", "fallback": None}
        and box["box"] == [0.0, 2.0 * max(0, number - 7), 20.0, 2.0 * (number + 10 - 7)]
    )


def gpu_servers(server: Server) -> list[psutil.Process]:
    return processes.gpu_servers({server.state.pid})


def workers(server: Server) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.state.pid).children():
        try:
            if any(processes.WORKER in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_all_workers_ask_one_gpu_server(server: Server) -> None:
    with ThreadPoolExecutor(8) as pool:
        given = [FILES[i % len(FILES)] for i in range(96)]
        answers = list(pool.map(lambda data: ask(server, data), given))
    assert all(right(a, d) for a, d in zip(answers, given, strict=True))
    (one,) = gpu_servers(server)
    running = workers(server)
    assert len(running) == WORKERS
    # What only the GPU server needs is not in the workers: PyTorch alone would be 225 MB.
    assert max(w.memory_info().rss for w in running) < 150 << 20
    usage = processes.usage(w.pid for w in running)
    assert len(usage.resident) == WORKERS + 1  # its memory is counted
    assert one.pid not in {w.pid for w in running}


def test_a_file_that_is_no_picture_is_told_so(server: Server) -> None:
    answer = ask(server, b"words")
    assert answer.status_code in (400, 415)
    assert "picture" in answer.json()["message"]
    assert right(ask(server, FILES[0]), FILES[0])


def test_a_killed_gpu_server_is_replaced_and_no_request_lost(server: Server) -> None:
    (before,) = gpu_servers(server)
    with ThreadPoolExecutor(6) as pool:
        given = [FILES[i % len(FILES)] for i in range(60)]
        asked = [pool.submit(ask, server, data) for data in given[:30]]
        os.kill(before.pid, signal.SIGKILL)
        asked += [pool.submit(ask, server, data) for data in given[30:]]
        answers = [a.result() for a in asked]
    assert all(right(a, d) for a, d in zip(answers, given, strict=True))
    assert [h.pid for h in gpu_servers(server)] != [before.pid]


def test_a_killed_worker_comes_back_to_the_same_gpu_server(server: Server) -> None:
    (one,) = gpu_servers(server)
    victim = workers(server)[0]
    victim.kill()
    limit = time.monotonic() + 60
    while len({w.pid for w in workers(server)} - {victim.pid}) < WORKERS:
        assert time.monotonic() < limit
        time.sleep(0.2)
    server.wait_ready("fd1")
    for data in FILES:
        assert right(ask(server, data), data)
    assert [h.pid for h in gpu_servers(server)] == [one.pid]


def test_the_gpu_server_goes_with_the_server(tmp_path: Path) -> None:
    write_detector(tmp_path)
    with serving(settings_for(tmp_path, tmp_path / "run")) as running:
        assert right(ask(running, FILES[0]), FILES[0])
        (one,) = gpu_servers(running)
    one.wait(15)
