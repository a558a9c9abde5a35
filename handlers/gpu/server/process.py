"""The GPU server's program: ``python -m handlers.gpu.server.process``, started by ``client``.

Its standard input is the listening socket; its output goes into a log file beside the socket.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from handlers import runtimes
from handlers.errors import KitError, RuntimeUnfit
from handlers.gpu.server.jobs import Work
from handlers.gpu.server.queues import Server
from handlers.passport import Passport

logger = logging.getLogger("gpu_server")

SWITCH_S = 0.0005
"""Five threads hand work to each other: Python's own 5 ms would be two batches."""


def main() -> int:
    """Loads the model, then serves workers until none is left."""
    parser = argparse.ArgumentParser(prog="python -m handlers.gpu.server.process")
    parser.add_argument("--folder", type=Path, required=True, help="the unpacked archive")
    parser.add_argument("--artefact", required=True)
    parser.add_argument("--gpu", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True, help="of the socket")
    parser.add_argument("--server", help="process id of the workers' parent; for who looks at ps")
    given = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the workers' going ends it
    sys.setswitchinterval(SWITCH_S)
    listener = socket.socket(fileno=os.dup(0))
    with Path(os.devnull).open("rb") as nothing:  # what it starts must not hold the socket
        os.dup2(nothing.fileno(), 0)
    mine = _identity(given.path)
    greeting, work = load(given.folder, given.artefact, given.gpu, given.threads)
    Server(listener, greeting, work, lambda: may_go(listener, given.path, mine)).serve()
    return 0


def load(folder: Path, name: str, gpu: int, threads: int) -> tuple[dict[str, Any], Work | None]:
    """The greeting, and the work; the greeting says "unfit" where there is none."""
    try:
        passport = Passport.read(folder)
        runtime = runtimes.of(folder, passport, name, threads, gpu)
        runtime.activate()
        from handlers.gpu.server.work import GpuWork
        from handlers.runtimes.device import DeviceRuntime

        if not isinstance(runtime, DeviceRuntime):
            raise RuntimeUnfit(f"{runtime.name} runs on no GPU")
        work = GpuWork(runtime, passport)
    except KitError as e:
        return {"unfit": str(e)}, None
    return {"precision": runtime.precision, "note": runtime.note}, work


def may_go(listener: socket.socket, path: Path, mine: tuple[int, int] | None) -> bool:
    """Takes the socket away, unless a worker is connecting: it holds the lock, or waits already.

    Args:
        mine: what ``path`` was at the start; a later server's socket is left there.
    """
    try:
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if select.select([listener], [], [], 0)[0]:
                return False
            if _identity(path) == mine:
                for suffix in (".sock", ".log", ".pid"):
                    path.with_suffix(suffix).unlink(missing_ok=True)
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:  # the folder went with its server
        return True


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, None where there is none."""
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


if __name__ == "__main__":
    status = 1
    try:
        status = main()
    except BaseException:
        logger.exception("the GPU server ends")
    finally:
        logging.shutdown()
        os._exit(status)  # its threads wait for work that never comes
