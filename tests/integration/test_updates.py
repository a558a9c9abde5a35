"""Versions of a served model: replaced, side by side, switched back; what a restart serves."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from handlers.errors import KitError
from tests.support.archives import ECHO, write_archive
from tests.support.checkout import UNSET, Checkout, checked_out, one_line, set_up
from tests.support.updating import Updated, updated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LOADING = ECHO.replace("self.batch", "import time; time.sleep(60); self.batch")
BROKEN = ECHO.replace("self.batch", "raise ValueError('weights of cheese'); self.batch")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Updated]:
    with updated(tmp_path) as found:
        yield found


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    with checked_out(tmp_path) as found:
        write_archive(found.store, "fd1", task="detection")
        done = found.run()
        assert done.returncode == 0, done.stdout + done.stderr
        yield found


def test_two_versions_side_by_side_and_back(
    served: Updated, capsys: pytest.CaptureFixture[str]
) -> None:
    first = served.file.read_bytes()
    served.update(served.archive("2.0"), keep=True)
    assert [served.answers(v) for v in ("", "1.0", "2.0", "~1")] == ["2.0", "1.0", "2.0", 404]
    assert served.figures('ts_inference_requests_total.*model_version="([^"]*)"') >= {"1.0", "2.0"}
    assert "~1" not in served.figures('model_version="([^"]*)"')
    assert served.figures('guard_refusals{Reason="unknown"} (.*)') == {"1"}
    with pytest.raises(KitError, match=re.escape("echo.mar is version 1.0, as the one")):
        served.update(served.archive("1.0", sleep_ms=1), keep=True)
    with pytest.raises(KitError, match=re.escape("there is echo/2.0, echo/1.0")):
        served.switch("echo/3.0")
    served.switch("echo/1.0", keep=True)
    assert [served.answers(v) for v in ("", "1.0", "2.0")] == ["1.0", "1.0", "2.0"]
    assert served.file.read_bytes() == first, "a restart serves what answers"
    served.switch("echo/2.0")
    assert [served.answers(v) for v in ("", "1.0", "2.0")] == ["2.0", 404, "2.0"]
    assert served.has_workers(1)
    with pytest.raises(KitError, match="this very archive is served already"):
        served.update(served.folder / "2.0" / "echo.mar")
    with pytest.raises(KitError, match=r"other is not served, .* \(served: echo\)"):
        served.update(served.archive("2.0").rename(served.folder / "other.mar"))


def test_a_version_of_the_same_name_takes_the_place_of_the_old_one(served: Updated) -> None:
    """As after a repack without --version."""
    for number in range(4):
        served.update(served.archive("1.0", sleep_ms=number + 1))
        assert served.answers("1.0") == "1.0"
    assert served.has_workers(1)


def test_what_was_put_in_the_store_is_put_aside_until_it_serves(
    served: Updated, capsys: pytest.CaptureFixture[str]
) -> None:
    first = served.file.read_bytes()
    aside = served.file.parent / "new" / "echo.mar"
    served.archive("2.0", broken=True).replace(served.file)
    with pytest.raises(KitError, match="this machine lacks a part"):
        served.update()
    assert served.file.read_bytes() == first
    assert "echo 1.0 goes on; not served: " in capsys.readouterr().out
    good = served.archive("2.0")
    aside.write_bytes(good.read_bytes())
    served.update()
    assert served.file.read_bytes() == good.read_bytes()
    assert not aside.parent.exists()
    assert served.answers() == "2.0"
    served.update()
    assert "served already" in capsys.readouterr().out


def test_a_worker_that_dies_comes_back_whatever_the_store_holds_by_then(served: Updated) -> None:
    """A repack writes into the store while the server runs."""
    served.archive("2.0", broken=True).replace(served.file)
    (worker,) = served.state().workers()
    worker.kill()
    end = time.monotonic() + 20
    while served.answers() != "1.0" and time.monotonic() < end:
        time.sleep(0.1)
    assert served.answers() == "1.0"


def test_a_file_that_changes_while_it_loads_is_not_served(
    served: Updated, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = served.archive("2.0")

    def meanwhile(*_: object) -> None:
        served.archive("2.0", sleep_ms=9)

    monkeypatch.setattr("deploy.torchserve.update.ask_sample", meanwhile)
    with pytest.raises(KitError, match="was changed meanwhile"):
        served.update(archive)
    assert served.answers() == "1.0"


def test_a_store_that_cannot_be_written_changes_nothing(
    served: Updated, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename fails after TorchServe was told: it is told again."""
    first, second = served.file.read_bytes(), served.archive("2.0")

    def commit(self: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("repack.archive.Draft.commit", commit)
        with pytest.raises(KitError, match="the disk is full"):
            served.update(second)
    assert (served.answers(), served.file.read_bytes()) == ("1.0", first)
    assert served.state().versions == {"echo": {"1.0": "1.0"}}
    served.update(second)
    assert served.answers() == "2.0"


def test_where_a_grpc_client_is_connected_the_old_version_stays_for_a_while(
    tmp_path: Path,
) -> None:
    """The guard does not see its calls."""
    with updated(tmp_path, drain_timeout=3) as served:
        at = ("127.0.0.1", served.settings.grpc_port)
        with socket.create_connection(at), ThreadPoolExecutor(1) as pool:
            updating = pool.submit(partial(served.update, served.archive("2.0")))
            while served.answers() != "2.0":
                time.sleep(0.05)
            time.sleep(2)
            assert served.has_workers(2)
            assert updating.result() == 0
        assert served.has_workers(1)


@pytest.mark.skipif(not set_up(), reason=UNSET)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_it_loads(checkout: Checkout, number: signal.Signals, code: int) -> None:
    before = (checkout.store / "fd1.mar").read_bytes()
    new = write_archive(checkout.folder, "fd1", LOADING, version="2.0", task="detection")
    process = checkout.begin("--update", str(new))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("load"):
            break
    time.sleep(1)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert "fd1 1.0 goes on; not served" in output
    assert "Traceback" not in output
    assert (checkout.store / "fd1.mar").read_bytes() == before
    assert checkout.client.predict("fd1", b"x", 5).status == 200
    assert "already running" in checkout.run().stdout


@pytest.mark.skipif(not set_up(), reason=UNSET)
def test_by_run_sh_and_what_a_restart_serves(checkout: Checkout) -> None:
    write_archive(checkout.store, "fd1", BROKEN, version="2.0", task="detection")
    assert "bash run.sh --update" in one_line(checkout.run())
    assert one_line(checkout.run("--update", "fd1")).endswith("ValueError: weights of cheese")
    good = write_archive(checkout.folder, "fd1", version="3.0", task="detection")
    done = checkout.run("--update", str(good))
    assert done.returncode == 0, done.stderr
    assert "update   fd1 3.0 answers" in done.stdout
    status = checkout.run("--status", "--json")
    told = json.loads(status.stdout)
    assert told["models"]["fd1"]["default"] == "3.0"
    (version,) = told["models"]["fd1"]["versions"].values()
    assert (version["task"], version["batch_size"], len(version["workers"])) == ("detection", 1, 1)
    assert told["addresses"]["predictions"] == f"127.0.0.1:{checkout.port}"
    os.kill(checkout.server().pid, signal.SIGKILL)
    assert checkout.run().returncode == 0
    assert list(checkout.server().versions["fd1"]) == ["3.0"]
    assert "with --update or --switch" in one_line(checkout.run("--keep"))
    assert "--json goes with --status" in one_line(checkout.run("--json"))
    checkout.run("--stop")
    assert "not running" in one_line(checkout.run("--update"))
    gone = checkout.run("--status", "--json")
    assert (gone.returncode, gone.stdout) == (3, "null\n")
