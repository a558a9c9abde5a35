"""What the kit remembers of its server: one lock, one state file, one private temporary folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from handlers.errors import KitError

GUARD = "guard.json"
"""In the temporary folder: what the processes before the front end were told."""

TEMP_PREFIX = "kit-serve-"
SOCKET_NAME = "/.ts.sock.99999"
SOCKET_LIMIT = 107
LOCK_WAIT_S = 1800
ROOM = 1 << 20
"""Bytes that logs and state may need at once."""


@dataclass(frozen=True)
class State:
    """A server that was started.

    Attributes:
        pid: process id of the front end.
        started: its start time, s since the epoch; tells it from a later process of the same id.
        temp: folder of its sockets and unpacked archives.
        settings: ``Settings.record()`` it was started with.
        archives: served archives, file name -> sha256.
        versions: model -> version -> its name in TorchServe (``deploy.torchserve.versions``).
    """

    pid: int
    started: float
    temp: str
    settings: dict[str, Any]
    archives: dict[str, str]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)

    def process(self) -> psutil.Process | None:
        """The front end, or None where it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def workers(self) -> list[psutil.Process]:
        """Worker processes of this server, also those that outlived the front end."""
        return [process for process, guards in self._others() if not guards]

    def guards(self) -> list[psutil.Process]:
        """Processes that take the clients' connections."""
        return [process for process, guards in self._others() if guards]

    def _others(self) -> Iterator[tuple[psutil.Process, bool]]:
        guard = str(Path(self.temp) / GUARD)
        for process in psutil.process_iter(["cmdline"]):
            parts = process.info["cmdline"] or ()
            if process.pid != self.pid and any(p.startswith(self.temp + "/") for p in parts):
                yield process, guard in parts


def read(run_dir: Path) -> State | None:
    """The last server's state, or None where there is none (or an unreadable one)."""
    try:
        return State(**json.loads((run_dir / "state.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write(run_dir: Path, state: State) -> None:
    temporary = run_dir / f"state.json.{os.getpid()}"
    temporary.write_text(json.dumps(asdict(state), indent=1))
    temporary.replace(run_dir / "state.json")


def forget(run_dir: Path, state: State) -> None:
    """Removes the state file, the keys and the server's temporary folder."""
    (run_dir / "state.json").unlink(missing_ok=True)
    (run_dir / "key_file.json").unlink(missing_ok=True)
    if Path(state.temp).name.startswith(TEMP_PREFIX):
        shutil.rmtree(state.temp, ignore_errors=True)


def new_temp() -> Path:
    """A private folder (mode 700) whose sockets' paths fit the system's limit."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108
        if len(os.fsencode(parent)) + len(TEMP_PREFIX) + 8 + len(SOCKET_NAME) < SOCKET_LIMIT:
            try:
                return Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=parent))
            except OSError:
                continue
    raise KitError("no temporary folder with a short path can be written: set TMPDIR to one")


def prepare(run_dir: Path) -> None:
    """Makes the run folder, for this user alone.

    Raises:
        KitError: it cannot be written, or its disk is full.
    """
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (run_dir / "logs").mkdir(exist_ok=True)
    except OSError as e:
        raise KitError(f"{run_dir} cannot be written ({e.strerror}): set RUN_DIR") from None
    if shutil.disk_usage(run_dir).free < ROOM:
        raise KitError(f"{run_dir} is on a full disk: free some, or set RUN_DIR to another")


@contextmanager
def lock(run_dir: Path, wait_s: float, tell: Callable[[str], None] = print) -> Iterator[None]:
    """Lets one run.sh at a time start or stop the server.

    Args:
        tell: called once with a line for the user where there is something to wait for.

    Raises:
        KitError: another one held the lock for longer than ``wait_s``.
    """
    with (run_dir / "lock").open("a") as file:
        begin = time.monotonic()
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - begin > wait_s:
                    raise KitError(
                        f"another run.sh has been busy for {wait_s:.0f} s: try again later"
                    ) from None
                if not told:
                    tell("another run.sh is busy: waiting for it")
                    told = True
                time.sleep(0.1)
        yield
