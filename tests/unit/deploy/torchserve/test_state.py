from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from deploy.torchserve import state
from deploy.torchserve.state import State
from handlers.errors import KitError


def own_state(tmp_path: Path, shift: float = 0) -> State:
    started = psutil.Process().create_time() + shift
    return State(os.getpid(), started, str(tmp_path / "kit-serve-x"), {}, {})


def test_written_state_is_read_back(tmp_path: Path) -> None:
    state.write(tmp_path, own_state(tmp_path))
    assert state.read(tmp_path) == own_state(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', "\0"])
def test_unreadable_state_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert state.read(tmp_path) is None


def test_reused_process_id_is_not_the_server(tmp_path: Path) -> None:
    assert own_state(tmp_path).process() is not None
    assert own_state(tmp_path, shift=-60).process() is None


def test_workers_are_found_by_the_path_of_their_sockets(tmp_path: Path) -> None:
    found = own_state(tmp_path)
    code = "import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, f"{found.temp}/.ts.sock.9000"]) as worker:
        try:
            assert [p.pid for p in found.workers()] == [worker.pid]
        finally:
            worker.kill()


def test_forget_removes_only_the_kits_own(tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    stranger = State(1, 0, str(other), {}, {})
    state.write(tmp_path, stranger)
    state.forget(tmp_path, stranger)
    assert other.is_dir()
    assert not (tmp_path / "state.json").exists()


def test_lock_waits_for_the_other_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    order: list[str] = []

    def second() -> None:
        with state.lock(tmp_path, 10, said.append):
            order.append("second")

    with state.lock(tmp_path, 0):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    assert said == ["another run.sh is busy: waiting for it"]


def test_lock_gives_up(tmp_path: Path) -> None:
    with (
        state.lock(tmp_path, 0),
        pytest.raises(KitError, match="busy"),
        state.lock(tmp_path, 0),
    ):
        pass


def test_run_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="set RUN_DIR"):
        state.prepare(tmp_path / "file" / "run")
