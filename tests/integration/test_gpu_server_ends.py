"""How a GPU server starts, ends and is replaced, without a GPU."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from handlers.errors import RuntimeUnfit
from handlers.gpu.server import client, process, starting
from tests.support import gpu_server_program as program
from tests.support.gpu_server import ROOT, SLOT, Worker, numbers, running, wait_for_end, words


@pytest.mark.parametrize("word", ["die", "broken"])
def test_a_server_that_ends_is_replaced(
    address: starting.Address, worker: Worker, word: str
) -> None:
    mine, other = worker(), worker()
    before = mine.greeting["pid"]
    with pytest.raises(RuntimeError, match="server ended while"):
        mine.ask(words(1, word))
    assert mine.greeting["pid"] != before
    assert numbers(other.ask(words(2))) == [[2]]  # asks again by itself
    assert other.greeting["pid"] == mine.greeting["pid"]
    with pytest.raises(RuntimeError, match="server ended twice"):
        mine.ask(words(word))
    assert numbers(mine.ask(words(3, 4))) == [[3], [4]]


def test_a_server_that_hangs_is_ended(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_S", 0.5)
    mine = worker()
    before = mine.greeting["pid"]
    with pytest.raises(RuntimeError, match=r"server ended while it worked .timed out"):
        mine.ask(words("hang", 1))
    assert running(address.path.parents[1]) == [mine.greeting["pid"]] != [before]


def test_why_a_model_cannot_run_reaches_the_worker(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.UNFIT, "the engine was built for another GPU: not loaded")
    for _ in range(2):
        with pytest.raises(RuntimeUnfit, match=r"^the engine was built for another GPU"):
            worker()
    monkeypatch.setenv(program.UNFIT, "crash")
    wait_for_end(address)
    with pytest.raises(starting.ServerDied, match=r"on the GPU ends .*: the driver is gone"):
        worker()


def test_a_killed_worker_leaves_the_others_served(
    address: starting.Address, worker: Worker
) -> None:
    mine = worker()
    code = (
        "import sys, time; from pathlib import Path;"
        "from handlers.gpu.server import starting, client;"
        "from tests.support.gpu_server import words, SLOT;"
        "starting.PROGRAM = 'tests.support.gpu_server_program';"
        "c = client.Client(starting.Address(Path(sys.argv[1]), 'accelerated', 0, 1), SLOT);"
        "c.ask(words(1)); print('asked', flush=True)\nwhile True: c.ask(words(*range(30)))"
    )
    environment = {**os.environ, "TMPDIR": str(address.path.parents[1])}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"asked\n"
        time.sleep(0.3)
        other.kill()
    assert numbers(mine.ask(words(*range(50)))) == [[n] for n in range(50)]
    assert len(running(address.path.parents[1])) == 1


def test_the_server_goes_with_its_last_worker(address: starting.Address, worker: Worker) -> None:
    first, second = worker(), worker()
    first.close()
    time.sleep(4.5)
    assert numbers(second.ask(words(6))) == [[6]]
    second.close()
    wait_for_end(address)
    assert sorted(p.suffix for p in address.path.parent.iterdir()) == [".lock"]
    assert numbers(worker().ask(words(7))) == [[7]]


def test_a_socket_that_nobody_listens_at_is_replaced(
    address: starting.Address, worker: Worker
) -> None:
    address.path.touch()
    assert numbers(worker().ask(words(1))) == [[1]]


def test_a_folder_that_others_can_enter_is_refused(address: starting.Address) -> None:
    address.path.parent.chmod(0o755)
    with pytest.raises(starting.NoServer, match="must be a folder that only this user can enter"):
        starting.own_folder()
    address.path.parent.chmod(0o700)
    with pytest.raises(starting.NoServer, match="cannot be made"):
        address.path.parent.rename(address.path.parents[1] / "away")
        address.path.parent.write_text("")
        starting.Address(ROOT / "x", "accelerated", 0, 1)


def test_a_server_that_dies_while_it_loads_is_started_again(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.LOADING, "1.5")
    monkeypatch.setattr(starting, "ENDING_S", 0.5)
    with ThreadPoolExecutor(3) as pool:
        made = [pool.submit(worker) for _ in range(3)]
        time.sleep(1.0)
        (loading,) = running(address.path.parents[1])
        os.kill(loading, signal.SIGKILL)
        for done in made:
            assert numbers(done.result().ask(words(1))) == [[1]]


def test_a_server_that_hangs_while_it_loads_is_ended(
    address: starting.Address, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(program.LOADING, "600")
    monkeypatch.setattr(starting, "LOADING_S", 1.0)
    with pytest.raises(starting.ServerDied, match="timed out"):
        worker()
    wait_for_end(address)


def test_where_no_server_can_follow_the_worker_ends(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = worker()
    monkeypatch.setenv(program.UNFIT, "there is no GPU any more")
    with pytest.raises(SystemExit, match="no GPU server: there is no GPU any more"):
        mine.ask(words("die"))


def test_a_later_servers_socket_is_left_alone(address: starting.Address, worker: Worker) -> None:
    first = worker()
    address.path.unlink()  # as a cleaner of /tmp does
    another = starting.Address(ROOT, "accelerated", 0, 1)
    second = client.Client(another, SLOT)
    assert second.greeting["pid"] != first.greeting["pid"]
    first.close()
    limit = time.monotonic() + 15
    while len(running(address.path.parents[1])) > 1:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert worker().greeting["pid"] == second.greeting["pid"]
    second.close()
    assert another._child is not None
    another._child.kill()
    another._child.wait()


def test_a_server_does_not_go_while_a_worker_comes(address: starting.Address) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as coming:
        listener.bind(str(address.path))
        listener.listen()
        mine = (address.path.stat().st_dev, address.path.stat().st_ino)
        coming.connect(str(address.path))
        assert not process.may_go(listener, address.path, mine)
        assert address.path.exists()
        listener.accept()[0].close()
        with address.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert not process.may_go(listener, address.path, mine)
        assert process.may_go(listener, address.path, mine)
        assert not address.path.exists()
        shutil.rmtree(address.path.parent)
        assert process.may_go(listener, address.path, mine)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_not_let_in(address: starting.Address, worker: Worker) -> None:
    mine = worker()
    address.path.parents[1].chmod(0o755)
    address.path.parent.chmod(0o755)
    address.path.chmod(0o777)
    code = (
        "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1]); print(s.recv(100))"
    )
    command = [sys.executable, "-c", code, str(address.path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert said.stdout in ("b''\n", "") and "PermissionError" not in said.stderr
    assert numbers(mine.ask(words(1))) == [[1]]
