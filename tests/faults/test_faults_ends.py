"""Rows 23, 25, 26, 36, 37, 41 and 43: parts of the server are killed, and it is stopped in work."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from deploy.torchserve import state
from tests.support.archives import write_archive
from tests.support.checkout import UNSET, Checkout, checked_out, one_line, set_up
from tests.support.guards import clients, question, said, status
from tests.support.servers import free_ports

pytestmark = pytest.mark.skipif(not set_up(), reason=UNSET)

SLOW = '''
import time
class Handler:
    """Takes as many seconds for a request as it says; "spin" computes for minutes."""
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        for row in rows:
            body = bytes(row.get("body") or b"0")
            if body == b"spin":
                sum(i for i in range(1 << 40))
            time.sleep(float(body) if body[:1].isdigit() else 0)
        return [b"{}" for _ in rows]
'''


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A server for the tests of this file, in their order: the last of them stops it."""
    with checked_out(tmp_path_factory.mktemp("ends")) as checkout:
        write_archive(checkout.store, "fd1", SLOW)
        done = checkout.run()
        assert done.returncode == 0, done.stdout + done.stderr
        yield checkout


def ask(checkout: Checkout, body: bytes) -> int:
    return checkout.client.predict("fd1", body, 30).status


def beginning(checkout: Checkout, bodies: list[bytes]) -> tuple[list[int], list[threading.Thread]]:
    """Requests under way, and where their statuses will be; 0 where the connection ended."""
    found: list[int] = []

    def run(body: bytes) -> None:
        try:
            found.append(ask(checkout, body))
        except (OSError, http.client.HTTPException):
            found.append(0)

    threads = [threading.Thread(target=run, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    return found, threads


def worker(checkout: Checkout) -> psutil.Process:
    described = checkout.client.describe("fd1")
    assert described is not None
    return psutil.Process(int(described["workers"][0]["pid"]))


def test_row_23_a_worker_killed_in_the_middle(started: Checkout) -> None:
    """Row 23: the request in work fails cleanly, the one behind is answered by the next worker."""
    killed = worker(started)
    found, threads = beginning(started, [b"20", b"0"])
    begin = time.monotonic()
    killed.kill()
    for thread in threads:
        thread.join()
    assert sorted(found) in ([200, 500], [200, 503], [200, 507]), found
    assert ask(started, b"0") == 200
    assert time.monotonic() - begin < 20
    assert worker(started).pid != killed.pid
    described = started.client.describe("fd1")
    assert described is not None
    assert len(described["workers"]) == 1


def test_row_37_a_broken_new_archive_leaves_the_old_one_serving(started: Checkout) -> None:
    """Row 37: half an archive in place of the served one: named, and the old one answers on."""
    path = started.store / "fd1.mar"
    whole, pid = path.read_bytes(), worker(started).pid
    found, threads = beginning(started, [b"0.2"] * 3)
    path.write_bytes(whole[: len(whole) // 2])
    try:
        assert "fd1.mar" in one_line(started.run())
        for thread in threads:
            thread.join()
        assert found == [200] * 3
        assert ask(started, b"0") == 200
        assert worker(started).pid == pid
    finally:
        path.write_bytes(whole)
    assert "already running" in started.run().stdout


def test_rows_36_and_41_stopped_in_work(started: Checkout) -> None:
    """Rows 36 and 41: what is in work is answered, new clients are refused, and eight connections
    that are kept alive (as a proxy's are) do not hold the stop up. Flags change nothing."""
    found, threads = beginning(started, [b"1.5", b"0"])
    kept = [socket.create_connection(("127.0.0.1", started.port), timeout=10) for _ in range(8)]
    for client in kept[:4]:
        client.sendall(question(b"0"))
    port, grpc_port = free_ports()
    begin = time.monotonic()
    stopped = started.run("--stop", PORT=str(port), GRPC_PORT=str(grpc_port), WORKERS="7")
    seconds = time.monotonic() - begin
    for thread in threads:
        thread.join()
    answers = [said(client) for client in kept]
    for client in kept:
        client.close()
    assert found == [200, 200]
    assert [status(answer) for answer in answers] == [200] * 4 + [0] * 4
    assert stopped.stdout.split() == ["server", "stopped"]
    assert seconds < 15
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", started.port)).close()
    assert started.all_gone()


def test_rows_25_and_43_the_front_end_killed_while_a_worker_computes(tmp_path: Path) -> None:
    """Rows 25 and 43: its worker ends with it in the middle of a computation of minutes, so does
    the guard, --status says so, and the next start works."""
    with checked_out(tmp_path) as checkout:
        write_archive(checkout.store, "fd1", SLOW)
        assert checkout.run().returncode == 0
        before = checkout.server()
        others = [*before.workers(), *before.guards()]
        assert len(others) >= 2
        with clients(checkout.port, 1, question(b"spin")) as (client,):
            time.sleep(0.5)
            psutil.Process(before.pid).kill()
            _, alive = psutil.wait_procs(others, timeout=3)
            assert not alive
            assert status(said(client)) in (0, 502)
        status_ = checkout.run("--status")
        assert (status_.returncode, status_.stdout.strip()) == (3, "not running")
        again = checkout.run()
        assert again.returncode == 0, again.stderr
        assert ask(checkout, b"0") == 200
        assert not Path(before.temp).exists()

        for guard in checkout.server().guards():
            guard.kill()
        shown = checkout.run("--status").stdout
        assert "the guard has ended, so nothing is answered" in shown


def test_row_26_what_a_killed_start_leaves_behind(tmp_path: Path) -> None:
    """Row 26: killed while it registers; what is stale does not keep the next one from starting."""
    loading = SLOW.replace("pass\n", "time.sleep(60)\n", 1)
    with checked_out(tmp_path) as checkout:
        write_archive(checkout.store, "fd1", loading)
        process = checkout.begin()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("logs"):
                break
        killed = checkout.server()
        for each in (process.pid, *(p.pid for p in checkout.processes())):
            psutil.Process(each).kill()
        process.communicate()
        assert Path(killed.temp).is_dir()
        # Its process id is another process's now.
        stale = replace(killed, pid=psutil.Process().pid)
        (checkout.folder / ".run" / "state.json").write_text(json.dumps(asdict(stale)))
        (checkout.store / "fd1.mar").unlink()
        write_archive(checkout.store, "fd1", SLOW)
        assert checkout.run("--status").returncode == 3
        done = checkout.run()
        assert done.returncode == 0, done.stderr
        assert ask(checkout, b"0") == 200
        assert not Path(killed.temp).exists()
        assert len(checkout.server().workers()) == 1


@pytest.mark.skipif(psutil.Process().uids().real != 0, reason="only root mounts a small disk")
def test_a_run_folder_without_room_is_named(tmp_path: Path) -> None:
    """Starting on a full disk says which folder, in one line, and leaves nothing running."""
    checkout = Checkout(tmp_path / "kit")
    write_archive(checkout.store, "fd1", SLOW)
    full = tmp_path / "full"
    full.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        line = one_line(checkout.run(RUN_DIR=str(full / "run")))
        assert line.startswith(f"error: {full / 'run'} is on a full disk")
        assert state.read(full / "run") is None
        assert not checkout.processes()
    finally:
        subprocess.run(["umount", str(full)], check=True)
    shutil.rmtree(full)
