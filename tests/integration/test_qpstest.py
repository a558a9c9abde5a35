"""The tester as a user starts it, against real servers and a real archive."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from deploy.torchserve.server import Server
from tests.support import made
from tests.support.archives import write_archive

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "examples" / "pictures"
RUN_FIELDS = {
    "mode", "runtime", "precision", "concurrency", "requests", "throughput", "latency_ms",
    "errors", "stages_ms", "worker_rss_mb",
}  # fmt: skip
SLOW = """
import time
class Handler:
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        time.sleep(0.1)
        if b"fail" in (bytes(value) for row in rows for value in row.values()):
            raise ValueError("on purpose")
        return [b"{}"] * len(rows)
"""


def start(script: str, *arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )


def qpstest(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return start("qpstest", *arguments, folder=folder)


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.settings.port}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with the shipped model, small, for ONNX Runtime."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(made.detector(), folder / "fd1.mar")
    return folder


def test_all_modes(store: Path, server_factory: Callable[..., Server], tmp_path: Path) -> None:
    server = server_factory(store, workers=1, batch_size=2)
    figures, plot, sheet = (tmp_path / name for name in ("a.json", "a.png", "vis.png"))
    done = qpstest(
        "--mode", "all", "--url", url_of(server), "--model-store", store, "--requests", 12,
        "--concurrency", "1,3", "--json", figures, "--plot", plot, "--vis", 1, "--vis-out", sheet,
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "handlers differ" not in done.stderr
    report = json.loads(figures.read_text())
    assert report["command"].startswith("python qpstest --mode all")
    assert report["versions"]["torchserve"] == "0.12.0"
    runs = report["runs"]
    assert [(r["mode"], r["concurrency"]) for r in runs] == [
        (mode, concurrency) for mode in (1, 2, 3) for concurrency in (1, 3)
    ]
    for run in runs:
        assert run.keys() >= RUN_FIELDS
        assert run["requests"] == 12
        assert run["errors"] == {}
        assert run["throughput"] > 0
        assert {"decode", "preprocess", "infer", "postprocess", "encode"} <= set(run["stages_ms"])
        assert [50 < size < 2000 for size in run["worker_rss_mb"]] == [True]
        assert run["batch"] == 2
    assert {(r["mode"], r["runtime"]) for r in runs} == {
        (1, "torchscript"), (2, "onnxruntime"), (3, "onnxruntime")
    }  # fmt: skip
    assert [r["torch_imported"] for r in runs if r["mode"] == 2] == [False, False]
    assert "queue" in runs[-1]["stages_ms"]
    assert "served / local accelerated throughput:" in done.stdout
    assert "2 accelerated and 3 served" in done.stdout
    assert "0 without a partner, boxes within 0.00 px" in done.stdout
    assert plot.read_bytes()[:4] == sheet.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_served(echo_server: Server, protocol: str, tmp_path: Path) -> None:
    figures = tmp_path / "a.json"
    done = qpstest(
        "--url", url_of(echo_server), "--grpc-port", echo_server.settings.grpc_port, "--protocol",
        protocol, "--clients", 2, "--requests", 50, "--concurrency", "1,5", "--json", figures,
        "--stable", "--max-windows", 3,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = json.loads(figures.read_text())["runs"]
    assert [r["requests"] for r in runs] == [150, 150]
    assert [r["errors"] for r in runs] == [{}, {}]
    assert all(r["protocol"] == protocol for r in runs)
    assert all(len(r["worker_rss_mb"]) == 2 for r in runs)
    assert (runs[0]["client_ms"] is not None) == (protocol == "http")


def test_by_time_as_a_module(echo_server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "qpstest", "--url", url_of(echo_server), "--duration", "1.5",
               "--concurrency", "2", "--json", str(tmp_path / "a.json")]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert 1.4 < run["seconds"] < 3
    assert run["throughput"] == pytest.approx(run["requests"] / run["seconds"], rel=0.01)


@pytest.fixture
def slow_server(server_factory: Callable[..., Server], tmp_path: Path) -> Server:
    """One worker, 10 requests a second, a queue of 2."""
    folder = tmp_path / "slow"
    folder.mkdir()
    write_archive(folder, "fd1", SLOW)
    return server_factory(folder, queue=2)


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=pytest.mark.slow)])
def test_overload_is_counted_apart(slow_server: Server, protocol: str, tmp_path: Path) -> None:
    figures = tmp_path / "a.json"
    done = qpstest(
        "--url", url_of(slow_server), "--grpc-port", slow_server.settings.grpc_port, "--protocol",
        protocol, "--duration", 2, "--concurrency", 8, "--warmup", 0, "--json", figures,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(figures.read_text())["runs"]
    assert set(run["errors"]) == {"overload"}
    assert run["succeeded"] + run["errors"]["overload"] == run["requests"]
    assert 5 < run["throughput"] < 10.5
    assert "the server's queue was full" in done.stdout


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=pytest.mark.slow)])
def test_a_run_without_any_answer_fails(slow_server: Server, protocol: str, tmp_path: Path) -> None:
    (tmp_path / "fail.bin").write_bytes(b"fail")
    done = qpstest(
        "--url", url_of(slow_server), "--grpc-port", slow_server.settings.grpc_port, "--protocol",
        protocol, "--requests", 10, "--concurrency", 1, "--input", tmp_path / "fail.bin",
        "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.returncode == 1
    assert "none of 10 requests succeeded; most: 503 (" in done.stderr
    assert "Prediction failed" in done.stderr
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert run["errors"] == {"503": 10}
    assert run["throughput"] == 0


def test_timeouts_are_counted(slow_server: Server, tmp_path: Path) -> None:
    done = qpstest(
        "--url", url_of(slow_server), "--requests", 5, "--concurrency", 1, "--warmup", 0,
        "--timeout", 0.05, "--json", tmp_path / "a.json",
    )  # fmt: skip
    assert done.returncode == 1
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert set(run["errors"]) <= {"timeout", "overload"}
    assert run["errors"]["timeout"] >= 1


def test_a_killed_worker_is_noticed(slow_server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "qpstest", "--url", url_of(slow_server), "--duration", "12",
               "--concurrency", "1", "--warmup", "1",
               "--json", str(tmp_path / "a.json")]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        assert any("served, concurrency 1:" in line for line in running.stderr)  # after 5 s of it
        slow_server.state.workers()[0].kill()
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "a worker was replaced while this ran" in output
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert sum(run["errors"].values()) >= 1
    assert run["succeeded"] >= 10


@pytest.mark.parametrize(
    "sign", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupted(slow_server: Server, tmp_path: Path, sign: int) -> None:
    command = [sys.executable, "qpstest", "--url", url_of(slow_server), "--requests", "100000",
               "--concurrency", "2", "--warmup", "2", "--clients", "2",
               "--json", str(tmp_path / "a.json")]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        time.sleep(4)
        children = psutil.Process(running.pid).children(recursive=True)
        assert len(children) >= 2
        if sign == signal.SIGINT:
            os.killpg(running.pid, sign)  # as a terminal does
        else:
            running.send_signal(sign)
        output, _ = running.communicate(timeout=20)
    assert running.returncode == 130
    assert "3 served" in output
    assert "interrupted" in output
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["interrupted"] is True
    assert 5 < report["runs"][0]["requests"] < 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9: start it with"),
        (["--mode", "2", "--name", "none"], "make it with python repack/model_repack.py --name"),
        (["--mode", "5"], "1, 2, 3, all or a list"),
        (["--input", "nowhere"], "no such file or folder"),
        (["--concurrency", "many"], "whole numbers from 1 to 4096"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], line: str) -> None:
    done = qpstest(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert line in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_model_that_is_not_served(echo_server: Server) -> None:
    done = qpstest("--url", url_of(echo_server), "--name", "other")
    assert done.returncode == 1
    assert "has no model 'other'; registered: fd1" in done.stderr


def test_a_truncated_archive(tmp_path: Path, store: Path) -> None:
    data = (store / "fd1.mar").read_bytes()
    (tmp_path / "fd1.mar").write_bytes(data[: len(data) // 2])
    done = qpstest("--mode", 2, "--model-store", tmp_path, folder=tmp_path)
    assert done.returncode == 1
    assert "fd1.mar" in done.stderr
    assert done.stderr.count("\n") == 1


def detect(*arguments: object) -> subprocess.CompletedProcess[str]:
    return start("examples/client.py", *arguments)


def test_client(store: Path, server_factory: Callable[..., Server], tmp_path: Path) -> None:
    predict = f"{url_of(server_factory(store))}/predictions/fd1"
    picture = sorted(PICTURES.glob("*.jpg"))[0]
    done = detect(picture, "--url", predict)
    assert done.returncode == 0
    assert min(float(line.split()[1]) for line in done.stdout.splitlines()) >= 0.25
    drawn = tmp_path / "out.jpg"
    assert detect(picture, "--url", predict, "--save", drawn).returncode == 0
    assert drawn.read_bytes()[:3] == b"\xff\xd8\xff"
    wrong = detect(ROOT / "ruff.toml", "--url", predict)
    assert wrong.returncode == 1
    assert "answered 4" in wrong.stderr
    alone = detect(picture, "--url", "http://127.0.0.1:9/predictions/fd1")
    assert alone.returncode == 1
    assert "start it with bash run.sh" in alone.stderr
    assert alone.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "sign", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_load_process_that_dies_is_named(slow_server: Server, sign: int) -> None:
    command = [sys.executable, "qpstest", "--url", url_of(slow_server), "--requests", "100000",
               "--concurrency", "1", "--warmup", "1"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        loading: list[psutil.Process] = []
        while not loading:
            time.sleep(0.5)
            children = psutil.Process(running.pid).children(recursive=True)
            loading = [p for p in children if p.net_connections()]
        loading[0].send_signal(sign)
        _, output = running.communicate(timeout=20)
    assert running.returncode == 1
    assert f"a load process was ended by {signal.Signals(sign).name}" in output


def test_nothing_is_left_when_the_tester_is_killed(slow_server: Server) -> None:
    command = [sys.executable, "qpstest", "--url", url_of(slow_server), "--requests", "100000",
               "--concurrency", "2", "--clients", "2"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as running:
        time.sleep(4)
        children = psutil.Process(running.pid).children(recursive=True)
        assert len(children) >= 3
        running.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
