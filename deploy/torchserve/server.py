"""Starts, watches and stops TorchServe."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deploy.torchserve import config, ports, state, versions, worker_log
from deploy.torchserve.archives import Archive
from deploy.torchserve.client import Client
from deploy.torchserve.drain import drain
from deploy.torchserve.settings import OPTIONS, ROOT, Settings, make
from deploy.torchserve.state import State
from handlers.errors import KitError

TERM_WAIT_S = 15

USUAL = ("nvidia-smi not available", "WARNING: sun.reflect")
"""Lines that every start on a machine without a GPU has."""

_launched: list[subprocess.Popen[bytes]] = []
"""Front ends and guards that this process started: a Popen dropped while it runs is a warning."""


@dataclass(frozen=True)
class Server:
    """A server that was started by this process or an earlier one.

    Attributes:
        logs: sizes of the log files at its start, so that only its own lines are read.
    """

    settings: Settings
    state: State
    logs: int = 0

    @property
    def client(self) -> Client:
        return Client(self.settings)

    @property
    def workers_log(self) -> Path:
        return self.settings.run_dir / "logs" / "workers.log"

    def wait_ready(self, model: str, tell: Callable[[float], None] = lambda s: None) -> None:
        """Waits until every worker of the model is READY and the gRPC port is open.

        Args:
            model: its name, or NAME/VERSION.
            tell: called with the seconds waited so far, about once a second.

        Raises:
            KitError: it cannot be loaded, with the reason from the workers' log; or the front end
                ended; or ``startup_timeout`` went by.
        """
        begin = time.monotonic()
        told = 0.0
        listen = [self.settings.ports[name] for name in ("gRPC predictions", "predictions")]
        while not (self.client.is_ready(model) and all(ports.answers(*at) for at in listen)):
            waited = time.monotonic() - begin
            if self.state.process() is None:
                raise KitError(f"the server ended while starting: {self.last_words()}")
            if not self.state.guards():
                raise KitError(f"the server ended while starting: {self.last_words('guard.log')}")
            if why := worker_log.reason(self.workers_log, self.logs, model):
                raise KitError(f"model {model.partition('/')[0]} cannot be loaded: {why}")
            if waited > self.settings.startup_timeout:
                raise KitError(
                    f"model {model} was not READY after {waited:.0f} s: see {self.workers_log},"
                    " or allow more with STARTUP_TIMEOUT="
                )
            if waited - told >= 1:
                told = waited
                tell(waited)
            time.sleep(0.1)

    def last_words(self, name: str = "java.log") -> str:
        """What the front end (or the guard) said when it ended, in one line."""
        log = self.settings.run_dir / "logs" / name
        try:
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
        except OSError:
            lines = []
        lines = [line for line in lines if not line.startswith(USUAL)]
        telling = [line for line in lines if re.search("[Ee]rror|xception|nvalid", line)]
        return telling[0] if telling else f"see {log.parent}"


def start(settings: Settings, archives: Sequence[Archive]) -> Server:
    """Unpacks the archives and starts the front end; does not wait for the models.

    Call it with ``state.lock`` held and no other server running from this run folder.

    Raises:
        KitError: a port is taken, the disk is too full, an archive was changed meanwhile, or
            Java cannot be run.
    """
    clean_up(settings)
    ports.require_free(settings)
    temp = state.new_temp()
    try:
        require_space(temp, archives)
        for archive in archives:
            versions.fill(temp, archive.name, archive.version, archive)
            for name in versions.SPARES:
                versions.empty(temp, archive.name, name)
        text = config.properties_text(config.properties(settings, archives, temp))
        (settings.run_dir / "config.properties").write_text(text)
        logged = log_size(settings)
        process = launch(settings, temp, config.java_command(settings, temp), "java.log")
        told = config.guards(settings, archives, temp, process.pid)
        (temp / state.GUARD).write_text(json.dumps(told))
        launch(settings, temp, config.guard_command(temp), "guard.log", PYTHONPATH=str(ROOT))
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    started = State(
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        temp=str(temp),
        settings=settings.record(),
        archives={a.path.name: a.sha256 for a in archives},
        versions={a.name: {a.version: a.version} for a in archives},
    )
    state.write(settings.run_dir, started)
    return Server(settings, started, logged)


def launch(
    settings: Settings, temp: Path, command: Sequence[str], log_name: str, **variables: str
) -> subprocess.Popen[bytes]:
    """Runs a part of the server in a session of its own: Ctrl-C reaches only the kit."""
    with (settings.run_dir / "logs" / log_name).open("wb") as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=settings.run_dir,
                env={**config.environment(settings, temp, os.environ), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as e:
            name = Path(command[0]).name
            raise KitError(f"{name} cannot be run ({e}): delete .venv and run again") from None
    _launched.append(process)
    return process


def log_size(settings: Settings) -> int:
    try:
        return (settings.run_dir / "logs" / "workers.log").stat().st_size
    except OSError:
        return 0


def require_space(temp: Path, archives: Sequence[Archive]) -> None:
    """Checks that the archives can be unpacked.

    Raises:
        KitError: names the folder, what is free and what is needed.
    """
    needed = sum(a.unpacked for a in archives) + (16 << 20)
    free = shutil.disk_usage(temp).free
    if free < needed:
        raise KitError(
            f"{temp.parent} has {free >> 20} MiB free and unpacking takes {needed >> 20} MiB:"
            " free some, or set TMPDIR to a folder on a larger disk"
        )


def running(settings: Settings) -> Server | None:
    """The server that was started from this run folder, where it still runs."""
    found = state.read(settings.run_dir)
    if found is None or found.process() is None:
        return None
    return Server(started_with(settings, found.settings), found)


def started_with(settings: Settings, record: dict[str, Any]) -> Settings:
    """The settings a server was started with, whatever flags are given now."""
    now = {"run_dir", "drain_timeout", "startup_timeout"}
    texts = {
        key: str(int(value)) if isinstance(value, bool) else str(value)
        for key, value in {**record, **{k: settings.record()[k] for k in now}}.items()
        if key in {option.field for option in OPTIONS}
    }
    try:
        return make(texts)
    except KitError:  # written by another version of the kit
        return settings


def stop(server: Server, drain_s: float | None = None) -> bool:
    """Lets requests in flight finish, then ends the front end and its workers.

    Args:
        drain_s: how long to wait for them, default the settings' ``drain_timeout``; with 0 all is
            ended at once.

    Returns:
        Whether nothing was in flight when the front end was told to end.
    """
    process, guards = server.state.process(), server.state.guards()
    wait_s = server.settings.drain_timeout if drain_s is None else drain_s
    idle = True
    workers = server.state.workers()
    if process is not None:
        idle = wait_s > 0 and drain(server.client, guards, wait_s)
        end(process, TERM_WAIT_S if wait_s else 0)
    for worker in {*workers, *guards, *server.state.workers()}:
        end(worker, 0)
    state.forget(server.settings.run_dir, server.state)
    _launched[:] = [child for child in _launched if child.poll() is None]
    return idle


def end(process: psutil.Process, term_wait_s: float) -> None:
    """Ends one process: asks first, where there is time to wait, then insists."""
    try:
        if term_wait_s:
            process.terminate()
            process.wait(term_wait_s)
            return
    except psutil.TimeoutExpired:
        pass
    except psutil.NoSuchProcess:
        return
    try:
        process.kill()
        process.wait(5)
    except psutil.NoSuchProcess:
        pass


def clean_up(settings: Settings) -> None:
    """Removes what a server that was killed left behind: workers, sockets, keys, state."""
    left = state.read(settings.run_dir)
    if left is None or left.process() is not None:
        return
    for process in (*left.workers(), *left.guards()):
        end(process, 0)
    state.forget(settings.run_dir, left)
