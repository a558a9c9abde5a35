"""run.sh from a copy of the checkout in an awkward folder, against real servers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import ECHO, write_archive
from tests.support.checkout import UNSET, Checkout, checked_out, one_line, set_up

pytestmark = pytest.mark.skipif(not set_up(), reason=UNSET)

SLOW = ECHO.replace("return [", "import time; time.sleep(1.5); return [")
LOADING = ECHO.replace("self.batch", "import time; time.sleep(60); self.batch")
BROKEN = ECHO.replace("self.batch", "raise ValueError('weights of cheese'); self.batch")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    with checked_out(tmp_path) as found:
        yield found


def test_start_again_status_stop(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", task="detection")
    first = checkout.run()
    assert first.returncode == 0, first.stdout + first.stderr
    assert '"bytes": 321' in first.stdout
    curl = next(line for line in first.stdout.splitlines() if line.startswith("next"))
    assert f"http://127.0.0.1:{checkout.port}/predictions/fd1 -T" in curl
    if shutil.which("curl"):
        command = ["bash", "-c", curl.removeprefix("next").strip()]
        shown = subprocess.run(
            command, cwd=checkout.folder.parent, capture_output=True, text=True, check=True
        )
        assert shown.stdout == '{"bytes": 321}'

    begin = time.monotonic()
    second = checkout.run()
    assert second.returncode == 0
    assert "already running" in second.stdout
    assert '"bytes": 321' in second.stdout
    assert time.monotonic() - begin < 10

    assert "already running" in one_line(checkout.run(WORKERS="2"))
    write_archive(checkout.store, "other")
    assert "with other archives" in one_line(checkout.run())

    status = checkout.run("--status")
    assert status.returncode == 0
    assert "READY" in status.stdout
    temp = Path(checkout.server().temp)
    assert temp.stat().st_mode & 0o077 == 0

    assert checkout.run("--stop").returncode == 0
    assert checkout.all_gone()
    assert not temp.exists()
    assert checkout.run("--status").returncode == 3
    assert checkout.run("--stop").returncode == 0


def test_two_at_once_share_one_server(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", task="detection")
    both = [checkout.begin(), checkout.begin()]
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert '"bytes": 321' in output
    assert len([p for p in checkout.processes() if "java" in p.name()]) == 1


def test_taken_port_is_named_with_its_holder(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1")
    with socket.create_server(("127.0.0.1", checkout.port + 2)):
        line = one_line(checkout.run())
    assert f"port {checkout.port + 2} (metrics) is taken by" in line
    assert f"process {os.getpid()}" in line


def test_damaged_archive_is_named_and_the_others_serve(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", task="detection")
    whole = write_archive(checkout.store, "half").read_bytes()
    (checkout.store / "half.mar").write_bytes(whole[: len(whole) // 2])
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused")]
    assert len(refused) == 1
    assert "half.mar" in refused[0]
    assert "half.mar" in one_line(checkout.run("--name", "half"))
    assert "no nothing.mar" in one_line(checkout.run("--name", "nothing"))


def test_model_that_cannot_be_loaded(checkout: Checkout) -> None:
    write_archive(checkout.store, "broken", BROKEN)
    assert one_line(checkout.run("--name", "broken")).endswith(
        "model broken cannot be loaded: ValueError: weights of cheese"
    )
    assert checkout.all_gone()
    write_archive(checkout.store, "fd1", task="detection")
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    assert "not served: model broken cannot be loaded: ValueError" in done.stdout
    described = checkout.client.describe("broken")
    assert described is not None
    assert described["workers"] == []  # no more retries


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow)],
)
def test_foreground_lets_requests_finish(
    checkout: Checkout, number: signal.Signals, status: int
) -> None:
    write_archive(checkout.store, "fd1", SLOW)
    process = checkout.begin("--foreground")
    assert process.stdout is not None
    for line in process.stdout:
        if "until Ctrl-C" in line:
            break
    answers: list[int] = []

    def ask() -> None:
        answers.append(checkout.client.predict("fd1", b"x", 20).status)

    requests = [threading.Thread(target=ask) for _ in range(3)]
    for request in requests:
        request.start()
    time.sleep(0.5)
    os.killpg(process.pid, number)
    for request in requests:
        request.join()
    output, _ = process.communicate(timeout=60)
    assert answers == [200, 200, 200], output
    assert process.returncode == status, output
    assert checkout.all_gone()


def test_ctrl_c_while_the_model_loads(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", LOADING)
    process = checkout.begin()
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("logs"):
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert checkout.all_gone()


def test_tokens(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", task="detection")
    done = checkout.run(TOKENS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Authorization: Bearer" in done.stdout
    keys = checkout.folder / ".run" / "key_file.json"
    assert keys.stat().st_mode & 0o077 == 0
    client = checkout.client  # sends no token: its settings do not ask for one
    for purpose, path in [("predictions", "/predictions/fd1"), ("management", "/models")]:
        method = "GET" if purpose == "management" else "POST"
        answer = client.request(purpose, method, path, b"x")
        assert answer.status == 400
        assert b"Token Authorization failed" in answer.body


def test_nothing_can_be_registered(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1")
    assert checkout.run().returncode == 0
    source = write_archive(checkout.folder, "outside").as_uri()
    before = sorted(checkout.store.iterdir())
    for url in (source, "http://127.0.0.1:9/x.mar", "fd1.mar"):
        answer = checkout.client.request("management", "POST", f"/models?url={url}")
        assert answer.status == 405
        answer = checkout.client.request("management", "POST", f"/workflows?url={url}")
        assert answer.status >= 400
    assert sorted(checkout.store.iterdir()) == before


def test_help_and_status_need_no_installation(checkout: Checkout) -> None:
    nowhere = str(checkout.folder / "none")
    shown = checkout.run("--help", VENV=nowhere)
    assert shown.returncode == 0
    assert "--batch-size" in shown.stdout
    assert checkout.run("--status", VENV=nowhere).returncode == 3
    assert checkout.run("--stop", VENV=nowhere).returncode == 0
    assert not Path(nowhere).exists()


def test_unfit_python_is_one_line(checkout: Checkout) -> None:
    assert "Python 3.10, 3.11 or 3.12 is needed" in one_line(checkout.run(PYTHON="/bin/false"))
    assert "WORKERS" in one_line(checkout.run(WORKERS="many"))
