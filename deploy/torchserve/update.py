"""A new version beside the one that serves: loaded, asked a sample, and only then asked by others.

The store holds what serves, at every moment: a start after whatever happens serves the same.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from deploy.torchserve import config, state, versions
from deploy.torchserve import server as servers
from deploy.torchserve.answer import sample_for, say, short
from deploy.torchserve.archives import FOREIGN, NOT_PROVEN, Archive, check
from deploy.torchserve.ending import drop, end_others, end_strays
from deploy.torchserve.served import Served, remember
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Change, Settings
from handlers.errors import KitError
from handlers.passport import sha256
from repack.archive import Draft, disk_error

ASIDE = "new"
"""Folder of the store for an archive that was put in the place of a served one, until it serves."""

SIGNALS = {signal.SIGINT, signal.SIGTERM}


def update(settings: Settings, change: Change) -> int:
    """Has newer archives answer; what cannot be loaded or asked changes nothing.

    Raises:
        KitError: why not; the old version goes on.
    """
    with state.lock(settings.run_dir, state.LOCK_WAIT_S):
        server = servers.running(settings)
        if server is None:
            raise KitError("not running: start it with bash run.sh")
        given = change.archives or sorted(changed(server))
        if not given:
            say("update", f"all of {short(server.settings.model_store)} is served already")
        for each in given:
            one(settings, change, each)
    return 0


def switch(settings: Settings, change: Change) -> int:
    """Has another loaded version answer; all others end, or with ``keep`` stay.

    Raises:
        KitError: there is no such version.
    """
    name, _, version = change.switch.partition("/")
    with state.lock(settings.run_dir, state.LOCK_WAIT_S):
        served = Served.of(settings, name)
        if version not in served.versions:
            raise KitError(
                f"--switch {change.switch}: no such version is loaded; of {name} there is"
                f" {', '.join(f'{name}/{v}' for v in served.versions)}"
            )
        at = served.versions[version]
        if version != served.default:
            put(served, version, at, lambda t: versions.packed(served.temp, name, at, t))
        end_others(Served.of(settings, name), change.keep)
    return 0


def changed(server: Server) -> Iterator[str]:
    """The served models whose file in the store is another one, or lies aside."""
    store = server.settings.model_store
    for file, served in server.state.archives.items():
        path = store / file
        aside = store / ASIDE / file
        if aside.is_file() or (path.is_file() and sha256(path) != served):
            yield path.stem


def one(settings: Settings, change: Change, given: str) -> None:
    """Replaces one model's version by an archive, named by its path or its model."""
    is_path = "/" in given or given.endswith(".mar")
    path = Path(given).expanduser().absolute() if is_path else None
    served = Served.of(settings, path.stem if path else given)
    if path is None or path == served.store_file:
        path = set_aside(served)
    archive = check(path, served.server.settings.guests)
    if archive.sha256 == served.sha256:
        if len(served.versions) == 1 or change.keep:
            raise KitError(f"{path.name}: this very archive is served already")
        end_others(served, keep=False)
        return
    require_fit(served, archive, change.keep)
    at = versions.spare(served.versions)
    if at is None:
        raise KitError(
            f"{given}: {', '.join(served.versions)} are loaded, which are the most: end those that"
            f" are not asked with --switch {served.name}/{served.default}"
        )
    sample = change.sample or sample_for(archive.task)
    if sample is None or not os.access(sample, os.R_OK):
        missing = f"--sample {sample} cannot be read" if sample else "no sample for its task"
        raise KitError(f"{path.name}: {missing}: give --sample FILE, a request that it must answer")
    try:
        load(served, archive, at)
        ask_sample(served, archive, at, sample)
        put(served, archive.version, at, partial(copy, archive))
    except BaseException:
        now = state.read(settings.run_dir)
        if now is None or at not in now.versions[served.name].values():
            drop(served, at)
            say("update", f"{served.name} {served.default} goes on; not served: {short(path)}")
        raise
    if path.parent == served.store_file.parent / ASIDE:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    end_others(Served.of(settings, served.name), change.keep)


def copy(archive: Archive, target: Path) -> None:
    """Copies the archive that was loaded.

    Raises:
        KitError: another one lies there by now.
    """
    shutil.copyfile(archive.path, target)
    if sha256(target) != archive.sha256:
        raise KitError(f"{archive.path} was changed meanwhile: run it again")


def require_fit(served: Served, archive: Archive, keep: bool) -> None:
    """Checks that an archive can be loaded beside what serves; says what is not the kit's in it.

    Raises:
        KitError: it cannot.
    """
    file = archive.path.name
    if keep and archive.version in served.versions:
        raise KitError(
            f"{file} is version {archive.version}, as the one that is to be kept: repack it"
            " with another --version, or leave --keep out"
        )
    if archive.handler != (handler := versions.handler(served.temp, served.name)):
        raise KitError(
            f"{file}: its handler is {archive.handler}, that of what serves is {handler}:"
            " bash run.sh --stop, then start"
        )
    if archive.passport is None:
        say("guest", f"{file}: {NOT_PROVEN}")
    if archive.foreign:
        say("code", f"{file}: {FOREIGN.format(archive.foreign)}")


def set_aside(served: Served) -> Path:
    """Puts the served archive back in its place, and another one that was there aside.

    Returns:
        where the other one lies now; where there is none, the store's file.

    Raises:
        KitError: the store cannot be written.
    """
    path = served.store_file
    aside = path.parent / ASIDE / path.name
    try:
        if path.is_file() and sha256(path) != served.sha256:
            with Draft(aside) as draft:
                shutil.copyfile(path, draft.path)
                draft.commit()
        if not path.is_file() or sha256(path) != served.sha256:
            with Draft(path) as draft:
                at = served.versions[served.default]
                versions.packed(served.temp, served.name, at, draft.path)
                remember(served, {"archives": {path.name: sha256(draft.path)}})
                draft.commit()
    except OSError as e:
        raise disk_error(e, path.parent) from None
    return aside if aside.is_file() else path


def load(served: Served, archive: Archive, at: str) -> None:
    """Starts a new version's workers, as many as the old one has, and waits until all are READY.

    Raises:
        KitError: there is no room, or it cannot be loaded.
    """
    server, name = served.server, served.name
    drop(served, at)  # what an update that was killed has left
    servers.require_space(served.temp, [archive])
    versions.fill(served.temp, name, at, archive)
    told = server.client.describe(name) or {}
    count = max(1, int(told.get("minWorkers", 1)))
    since = replace(server, logs=servers.log_size(server.settings))
    begin = time.monotonic()
    say("load", f"{name} {archive.version} beside {served.default}, {count} workers")
    server.client.set_workers(f"{name}/{at}", count)
    since.wait_ready(f"{name}/{at}")
    end_strays(served, at)
    say("load", f"{name} {archive.version} READY after {time.monotonic() - begin:.1f} s")


def ask_sample(served: Served, archive: Archive, at: str, path: Path) -> None:
    """Asks a version that nobody else can ask yet.

    Raises:
        KitError: it does not answer 200.
    """
    client, most = served.server.client, served.server.settings.response_timeout
    inside = served.temp / config.SOCKET
    try:
        answer = client.predict(f"{served.name}/{at}", path.read_bytes(), most, inside)
        told = answer.json() if answer.media_type == "application/json" else {}
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise KitError(f"{archive.path.name}: no answer to {path.name} ({e})") from None
    if answer.status != 200:
        known = isinstance(told, dict) and told.get("message")
        reason = known or f"{len(answer.body)} bytes that say no reason"
        raise KitError(f"{archive.path.name}: {path.name} -> {answer.status}: {reason}")
    say("sample", f"{short(path)} -> 200{runtime_of(told)}")


def runtime_of(answer: Any) -> str:
    """What an answer says of how it was computed, for the end of a line."""
    runtime = answer.get("runtime") if isinstance(answer, dict) else None
    if not isinstance(runtime, dict):
        return ""
    fallback = f"; FALLBACK: {runtime['fallback']}" if runtime.get("fallback") else ""
    return f" ({runtime.get('name')}, {runtime.get('precision')}{fallback})"


def put(served: Served, version: str, at: str, write: Callable[[Path], object]) -> None:
    """Has a loaded version answer, and makes it the store's file; both or neither.

    Args:
        write: writes its archive to a path.
    """
    server, name = served.server, served.name
    path = served.store_file
    old = dict(served.versions)
    known = {version: at}
    if old.get(version, at) != at:  # until it has ended
        known[f"{version} (before)"] = old.pop(version)
    known |= {v: n for v, n in old.items() if n != at}
    try:
        with Draft(path) as draft:
            write(draft.path)
            hashes = {path.name: sha256(draft.path)}
            before = state.read(server.settings.run_dir) or server.state
            with unbroken():
                remember(served, {"archives": hashes, "versions": {name: known}})
                try:
                    server.client.set_default(name, at)
                    draft.commit()
                except BaseException:
                    state.write(server.settings.run_dir, before)
                    with suppress(KitError):
                        server.client.set_default(name, served.versions[served.default])
                    raise
    except OSError as e:
        raise disk_error(e, path.parent) from None
    say("update", f"{name} {version} answers")


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
