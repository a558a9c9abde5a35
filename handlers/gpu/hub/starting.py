"""Finds a model's hub, or starts it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.errors import RuntimeUnfit
from handlers.gpu.hub import wire

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
"""The folder that this package lies in: the hub runs the same code."""

PROGRAM = "handlers.gpu.hub.process"

LONGEST_BASE = 48
"""Characters of the folder for temporary files: a socket's path has at most 107 in all."""

ENDING_S = 10.0
"""Seconds for a hub that ends to let go of its socket."""

SHOWN = 20
"""Lines of the hub's log that go into a worker's."""


class Place:
    """Where the hub of one model on one GPU is found.

    Args:
        folder: the unpacked archive.
        artefact: the name in the passport of what the hub loads.
        gpu: number of the GPU.
        threads: how many the hub's runtime may use.

    Raises:
        RuntimeUnfit: the folder for sockets is not this user's own.
    """

    def __init__(self, folder: Path, artefact: str, gpu: int, threads: int):
        self._options = {"folder": folder, "artefact": artefact, "gpu": gpu, "threads": threads}
        name = f"{folder.resolve()}|{artefact}|{gpu}"
        self._child: subprocess.Popen[bytes] | None = None
        self.path = own_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.sock"

    def connect(self) -> tuple[socket.socket, Mapping[str, Any]]:
        """A connection to the hub, and its greeting, which comes once the model is loaded.

        Raises:
            RuntimeUnfit: the hub cannot run the model here, or ends; why.
        """
        limit = time.monotonic() + ENDING_S
        while True:
            connection, started = self._there()
            try:
                greeting, _ = wire.receive(connection)
                break
            except wire.Gone:
                connection.close()
                # One that is just ending may still have been reached.
                if started or time.monotonic() > limit:
                    raise RuntimeUnfit(
                        f"the process that was to run the model on the GPU ended: {self.last()}"
                    ) from None
                time.sleep(0.02)
        if started:
            self.show_log()
        if "unfit" in greeting:
            connection.close()
            raise RuntimeUnfit(str(greeting["unfit"]))
        return connection, greeting

    def _there(self) -> tuple[socket.socket, bool]:
        """A connection to the hub, and whether it was started for it."""
        with self.path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            connection = self._reached()
            if connection is not None:
                return connection, False
            self._start()
            connection = self._reached()
        if connection is None:
            raise RuntimeUnfit(f"nothing listens at {self.path}")
        return connection, True

    def show_log(self) -> None:
        """What the hub has written goes into the worker's log."""
        for line in self._log()[-SHOWN:]:
            logger.info("hub: %s", line)

    def last(self) -> str:
        return (self._log() or ["it said nothing"])[-1]

    def _log(self) -> list[str]:
        with contextlib.suppress(OSError):
            return self.path.with_suffix(".log").read_text("utf-8", "replace").splitlines()
        return []

    def _reached(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.path))
        except OSError:
            connection.close()
            return None
        return connection

    def _start(self) -> None:
        """Starts a hub on a socket that listens already, so that nobody has to wait for it."""
        if self._child is not None:
            self._child.wait()
        self.path.unlink(missing_ok=True)
        command = [sys.executable, "-m", PROGRAM, f"--path={self.path}"]
        command += [f"--{name}={value}" for name, value in self._options.items()]
        command += [f"--server={os.getppid()}"]
        inherited = os.environ.get("PYTHONPATH")
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
            self.path.with_suffix(".log").open("wb") as log,
        ):
            listener.bind(str(self.path))
            listener.listen(128)
            # Kept, so that a hub that this worker started is reaped.
            self._child = subprocess.Popen(
                command,
                stdin=listener.fileno(),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), inherited))),
                },
                start_new_session=True,
            )


def own_folder() -> Path:
    """A folder for sockets that only this user can enter.

    Raises:
        RuntimeUnfit: it is somebody else's, or others can enter it.
    """
    base = tempfile.gettempdir()
    if len(base) > LONGEST_BASE:
        base = "/tmp"  # noqa: S108
    folder = Path(base) / f"torchserve-repack-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise RuntimeUnfit(f"{folder} must be a folder that only this user can enter")
    return folder


def end(pid: int) -> None:
    """Ends a hub that may hang; another program of this number is left alone."""
    with contextlib.suppress(OSError):
        if PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
