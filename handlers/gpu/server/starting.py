"""Finds a model's GPU server, or starts it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
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

from handlers.errors import KitError, RuntimeUnfit
from handlers.gpu.server import wire

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[3]
"""The folder that this package lies in: the server runs the same code."""

PROGRAM = "handlers.gpu.server.process"

LONGEST_BASE = 48
"""Bytes of the folder for temporary files: a socket's path has at most 107 in all."""

ENDING_S = 10.0
"""Seconds for a server that ends to let go of its socket."""

LOADING_S = 900.0
"""Seconds for a server to load its model: minutes, where it builds engines again."""

STARTS = 2
"""Servers that one worker starts at once before it gives up."""

SHOWN = 20
"""Lines of the server's log that go into a worker's."""


class NoServer(KitError):
    """A GPU server cannot be started, whatever its model: the worker can run the model itself."""


class ServerDied(KitError):
    """It ends while it loads the model: as a worker's own end, TorchServe's to try again."""


class Address:
    """Where the server of one model on one GPU is found.

    Args:
        folder: the unpacked archive.
        artefact: the name in the passport of what the server loads.
        gpu: number of the GPU.
        threads: how many the server's runtime may use.

    Raises:
        NoServer: there is no folder for sockets.
    """

    def __init__(self, folder: Path, artefact: str, gpu: int, threads: int):
        folder = folder.resolve()
        self._options = {"folder": folder, "artefact": artefact, "gpu": gpu, "threads": threads}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        name = "|".join(map(str, (folder, artefact, gpu, visible, ROOT)))
        self._child: subprocess.Popen[bytes] | None = None
        self.path = own_folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:20]}.sock"

    def connect(self) -> tuple[socket.socket, Mapping[str, Any]]:
        """A connection to the server, and its greeting, which comes once the model is loaded.

        Raises:
            RuntimeUnfit: the server says that the model cannot run here.
            ServerDied: it ends again and again.
            NoServer: it cannot be started.
        """
        deaths, first = 0, math.inf
        while True:
            connection, started = self._there()
            connection.settimeout(LOADING_S)
            try:
                greeting, _ = wire.receive(connection)
                break
            except wire.Gone as e:
                connection.close()
                if isinstance(e, wire.Late):
                    end(self._pid())
                deaths += started
                first = min(first, time.monotonic())
                # One that is just ending may be reached for a while; others may start one, too.
                if deaths >= STARTS or (not started and time.monotonic() - first > ENDING_S):
                    raise ServerDied(
                        f"the process that runs the model on the GPU ends ({e}): {self.last()}"
                    ) from None
                time.sleep(0.02)
        if started:
            self.show_log()
        elif self._child is not None:
            self._child.poll()  # one of ours that has ended is not kept as a zombie
        if "unfit" in greeting:
            connection.close()
            if self._child is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(ENDING_S)  # it ends once it has told every worker
            raise RuntimeUnfit(str(greeting["unfit"]))
        return connection, greeting

    def _there(self) -> tuple[socket.socket, bool]:
        """A connection to the server, and whether it was started for it."""
        try:
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                connection = self._reached()
                if connection is not None:
                    return connection, False
                self._start()
                connection = self._reached()
        except OSError as e:
            raise NoServer(f"no process can be started that listens at {self.path} ({e})") from None
        if connection is None:
            raise NoServer(f"nothing listens at {self.path}")
        return connection, True

    def show_log(self) -> None:
        """What the server has written goes into the worker's log."""
        for line in self._log()[-SHOWN:]:
            logger.info("gpu server: %s", line)

    def last(self) -> str:
        return (self._log() or ["it said nothing"])[-1]

    def _pid(self) -> int:
        """Of the server that was started last; 0 where that is not known."""
        with contextlib.suppress(OSError, ValueError):
            return int(self.path.with_suffix(".pid").read_text())
        return 0

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
        """Starts a server on a socket that listens already, so that nobody has to wait for it."""
        if self._child is not None:
            _reap(self._child)
        self.path.unlink(missing_ok=True)
        # The paths are words of their own: by them TorchServe's are found when it stops.
        command = [sys.executable, "-m", PROGRAM, "--path", str(self.path)]
        for name, value in self._options.items():
            command += [f"--{name}", str(value)]
        command += [f"--server={os.getppid()}"]
        inherited = os.environ.get("PYTHONPATH")
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
            self.path.with_suffix(".log").open("wb") as log,
        ):
            listener.bind(str(self.path))
            listener.listen(128)
            # Kept, so that a server that this worker started is reaped.
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
        self.path.with_suffix(".pid").write_text(str(self._child.pid))


def _reap(child: subprocess.Popen[bytes]) -> None:
    """Ends a server that this worker started and that nobody reaches any more."""
    try:
        child.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def own_folder() -> Path:
    """A folder for sockets that only this user can enter.

    Raises:
        NoServer: it is somebody else's, others can enter it, or it cannot be made.
    """
    folder = Path()
    try:
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > LONGEST_BASE:
            base = "/tmp"  # noqa: S108
        folder = Path(base) / f"torchserve-repack-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
    except OSError as e:
        raise NoServer(f"a folder for sockets, {folder}, cannot be made ({e.strerror})") from None
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
        raise NoServer(f"{folder} must be a folder that only this user can enter")
    return folder


def end(pid: int) -> None:
    """Ends a server that may hang; another program of this number is left alone."""
    with contextlib.suppress(OSError):
        if pid > 0 and PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
