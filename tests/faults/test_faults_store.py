"""Rows 44, 45 and 49: odd things in the store, code that is not the kit's, awkward folders.

Row 49 on another CPU: tests/integration/test_served_openvino.py and test_openvino_repacked.py.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from handlers import passport as passports
from repack import archive
from tests.support import made
from tests.support.archives import ECHO, write_archive
from tests.support.bodies import ARRAY, npy
from tests.support.checkout import UNSET, Checkout, checked_out, one_line, set_up

pytestmark = pytest.mark.skipif(not set_up(), reason=UNSET)

ODD = {
    "pipe.mar": "a named pipe; expected a file",
    "socket.mar": "a socket; expected a file",
    "folder.mar": "a folder; expected a file",
    "device.mar": "a device; expected a file",
    "dead.mar": "a link to 'gone.mar', where no file is",
    "round.mar": "a link to 'round.mar', where no file is",
}


def rewritten(source: Path, target: Path, files: dict[str, str]) -> Path:
    """An archive with other or further files, and checksums that agree with them."""
    stage = target.with_suffix(".stage")
    record = archive.unpack(source, stage)
    for name, text in files.items():
        (stage / name).write_text(text)
    hashes = {name: passports.sha256(stage / name) for name in {*record.files, *files}}
    (stage / passports.FILE).write_text(replace(record, files=hashes).to_json())
    archive.pack(stage, target)
    shutil.rmtree(stage)
    return target


@dataclass(frozen=True)
class Started:
    """A server in an awkward folder, and what run.sh said."""

    checkout: Checkout
    said: str

    def lines(self, step: str) -> list[str]:
        return [
            line.removeprefix(step).strip()
            for line in self.said.splitlines()
            if line.startswith(step)
        ]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """run.sh in the C locale, on a store of good, odd and changed archives."""
    with checked_out(tmp_path_factory.mktemp("odd")) as checkout:
        store = checkout.store
        shutil.copy(made.tensors(), store / "fd1.mar")
        boxes = (made.ROOT / "handlers" / "boxes.py").read_text()
        changed = {"handlers/boxes.py": boxes + "CHANGED = True\n", "unused.so": ""}
        rewritten(made.tensors(), store / "changed.mar", changed)
        os.mkfifo(store / "pipe.mar")
        with socket.socket(socket.AF_UNIX) as s:
            here = Path.cwd()
            os.chdir(store)  # a socket's path may not be long
            s.bind("socket.mar")
            os.chdir(here)
        (store / "folder.mar").mkdir()
        (store / "device.mar").symlink_to("/dev/zero")
        (store / "dead.mar").symlink_to("gone.mar")
        (store / "round.mar").symlink_to("round.mar")
        done = checkout.run()
        assert done.returncode == 0, done.stdout + done.stderr
        yield Started(checkout, done.stdout)


def test_row_44_what_is_no_file_is_named_and_left_out(started: Started) -> None:
    for name, reason in ODD.items():
        (line,) = (x for x in started.lines("refused") if name in x)
        assert line.endswith(f"{name}: {reason}")
    assert len(started.lines("refused")) == len(ODD)
    assert started.lines("archives") == ["changed 1.0 (tensors), fd1 1.0 (tensors)"]
    assert started.checkout.client.predict("fd1", npy(ARRAY), 60).status == 200


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ODD)
def test_row_44_so_says_who_looks_into_it(started: Started, name: str) -> None:
    done = inspect(started.checkout.store / name)
    assert ODD[name] in one_line(done)


def inspect(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repack.inspect", str(path)]
    return subprocess.run(command, cwd=made.ROOT, capture_output=True, text=True, check=False)


def test_row_45_code_that_is_not_the_kits_is_said(started: Started) -> None:
    (line,) = started.lines("code")
    assert line == (
        "changed.mar: this archive's code is not the kit's (handlers/boxes.py changed,"
        " unused.so added): packed by another version of the kit, or changed; an archive is code,"
        " so serve it only if you trust its maker"
    )
    assert started.checkout.client.predict("changed", npy(ARRAY), 60).status == 200


def test_row_45_so_says_who_looks_into_it(started: Started) -> None:
    store = started.checkout.store
    shown = inspect(store / "changed.mar").stdout
    assert "not this kit's: handlers/boxes.py changed, unused.so added; trust its maker" in shown
    assert "  code        this kit's\n" in inspect(store / "fd1.mar").stdout


def test_row_45_every_way_to_bring_code_is_seen(tmp_path: Path) -> None:
    def foreign(path: Path) -> str:
        return archive.foreign_code(archive.verify(path))

    assert foreign(made.tensors()) == ""
    assert foreign(made.detector()) == ""
    own = write_archive(tmp_path, "own", ECHO)
    assert foreign(own).startswith("MAR-INF/MANIFEST.json changed, given.py added, handlers/")
    for name, what in (
        ("handlers/new.py", "added"),
        ("numpy.py", "added"),
        ("yaml/__init__.py", "added"),
        ("numpy.cpython-311-x86_64-linux-gnu.so", "added"),
        ("handlers/entry.py", "changed"),
    ):
        (tmp_path / "x.stage" / "yaml").mkdir(parents=True)
        path = rewritten(made.tensors(), tmp_path / "x.mar", {name: "print()\n"})
        assert foreign(path) == f"{name} {what}"


def test_row_49_a_folder_with_other_letters_in_the_c_locale(started: Started) -> None:
    """The path has spaces, umlauts and characters of three bytes; the others here run in it too."""
    checkout = started.checkout
    assert not str(checkout.folder).isascii()
    assert checkout.environment["LC_ALL"] == "C"
    status = checkout.run("--status")
    assert (status.returncode, status.stderr) == (0, "")
    assert str(checkout.folder) in status.stdout
    logs = checkout.folder / ".run" / "logs"
    assert {"java.log", "workers.log"} <= {path.name for path in logs.iterdir()}


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below the folder can be written, not even by root."""
    bound = ["mount", "--bind", str(folder), str(folder)]
    again = ["mount", "-o", "remount,bind,ro", str(folder)]
    if os.geteuid():
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode & ~0o222)
    elif (done := subprocess.run(bound, capture_output=True, text=True, check=False)).returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        if not os.geteuid():
            subprocess.run(again, check=True)
        yield
    finally:
        if not os.geteuid():
            subprocess.run(["umount", str(folder)], check=True)
        else:
            for path in (folder, *folder.rglob("*")):
                path.chmod(path.stat().st_mode | 0o200)


def test_row_49_a_checkout_that_cannot_be_written(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "kit")
    shutil.copy(made.tensors(), checkout.store / "fd1.mar")
    with read_only(checkout.folder):
        line = one_line(checkout.run())
        assert line.startswith(f"error: {checkout.folder / '.run'} cannot be written (")
        assert line.endswith("): set RUN_DIR")
        run_dir = {"RUN_DIR": str(tmp_path / "run")}
        done = checkout.run(**run_dir)
        assert done.returncode == 0, done.stderr
        assert "fd1 READY" in done.stdout
        assert checkout.run("--stop", **run_dir).returncode == 0
        line = one_line(checkout.run(VENV=str(checkout.folder / ".venv")))
        assert line.endswith(": set VENV to a folder that can be")
