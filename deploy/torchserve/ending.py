"""Versions end: nobody asks them any more, what they were asked is answered, their workers end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import psutil

from deploy.kserve.models import Model
from deploy.openapi import path_item, unknown_item
from deploy.torchserve import state, versions
from deploy.torchserve.answer import say
from deploy.torchserve.archives import GUEST
from deploy.torchserve.served import Served, remember
from deploy.torchserve.server import Server
from handlers.errors import KitError


def end_others(served: Served, keep: bool) -> None:
    """Ends all versions but the default one, once their requests are answered.

    Args:
        keep: they stay, and can be asked by their version.
    """
    name, server = served.name, served.server
    others = {} if keep else {v: n for v, n in served.versions.items() if v != served.default}
    known = {v: n for v, n in served.versions.items() if v not in others}
    tell_guards(served, known)
    if not others:
        return
    wait_for_grpc(server)
    for version, at in others.items():
        drop(served, at)
        say("update", f"{name} {version} has ended")
    remember(served, {"versions": {name: known}})


def drop(served: Served, at: str) -> None:
    """Ends a version's workers, and empties its folder."""
    served.server.client.set_workers(f"{served.name}/{at}", 0)
    if at in versions.SPARES:
        versions.empty(served.temp, served.name, at)
    end_strays(served, at)


def end_strays(served: Served, at: str) -> None:
    """Ends worker processes of a version that TorchServe does not count.

    A worker that failed and waits to be started again is started again even where its version has
    no workers by then. Nobody would end it, and it answers from the version's queue.
    """
    told = served.server.client.describe(f"{served.name}/{at}") or {}
    counted = {worker["pid"] for worker in told.get("workers", ())}
    own = versions.folder(served.temp, served.name, at).name
    for process in served.server.state.workers():
        with suppress(psutil.Error):
            paths = process.environ().get("PYTHONPATH", "").split(os.pathsep)
            inside = {Path(p).name for p in paths if Path(p).is_relative_to(served.temp)}
            if process.pid not in counted and own in inside:
                process.kill()


def tell_guards(served: Served, known: Mapping[str, str]) -> None:
    """Tells the guard which versions may be asked, and waits for the answers of before.

    Raises:
        KitError: some were not answered in time; all versions stay.
    """
    guards, file = served.server.state.guards(), served.temp / state.GUARD
    told = json.loads(file.read_text())
    passport = versions.passport(served.temp, served.name, served.versions[served.default])
    for each in told:
        if passport:
            each["described"][served.name] = asdict(Model.of(served.name, passport))
            each["paths"][served.name] = path_item(passport)
        else:
            each["paths"][served.name] = unknown_item(served.name, served.default, GUEST)
        each["versions"][served.name] = dict(known)
        each["turn"] += 1
    draft = file.with_suffix(".tmp")
    draft.write_text(json.dumps(told))
    draft.replace(file)
    for guard in guards:
        guard.send_signal(signal.SIGHUP)
    end = time.monotonic() + told[0]["answer_s"] + 10
    left = {file.with_name(f"{file.stem}.{guard.pid}"): guard for guard in guards}
    while left:
        done = [p for p, g in left.items() if answered(p, told[0]["turn"]) or not g.is_running()]
        for path in done:
            del left[path]
        if left and time.monotonic() > end:
            raise KitError(f"{served.name}: the old version still answers: run it again later")
        time.sleep(0.05)


def answered(path: Path, turn: int) -> bool:
    """Whether a guard has written that nothing of before a change is unanswered."""
    try:
        return int(path.read_text() or -1) >= turn
    except OSError:
        return False


def wait_for_grpc(server: Server) -> None:
    """Gives gRPC's calls, which the guard does not see, the time that a stop gives them."""
    process, port = server.state.process(), server.settings.grpc_port
    end = time.monotonic() + server.settings.drain_timeout
    while process is not None and time.monotonic() < end:
        connections = process.net_connections("tcp")
        if not any(
            c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in connections
        ):
            return
        time.sleep(0.2)
