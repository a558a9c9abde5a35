"""The flow of serving: archives -> server -> READY -> one answer -> what to try next."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.torchserve import server as servers
from deploy.torchserve import state, status, update
from deploy.torchserve.answer import PICTURES, curl_line, pretty, sample_for, say, short
from deploy.torchserve.archives import FOREIGN, NOT_PROVEN, Archive, require, survey
from deploy.torchserve.server import Server
from deploy.torchserve.settings import ROOT, Change, Settings
from deploy.torchserve.watch import end_on_sigterm, watch
from handlers.errors import KitError

NOT_RUNNING = 3
CHANGES = {"update": update.update, "switch": update.switch}
MODEL_STORE = ROOT / "model_store"
WEIGHTS = ROOT / "examples" / "shapes" / "yolov5n_shapes.pt"


def run(action: str, settings: Settings, change: Change, again: Callable[[], Settings]) -> int:
    """Runs "start" or another of ``settings.ACTIONS``; returns the exit status.

    Args:
        change: what "update" and "switch" are to do, and how "status" answers.
        again: reads the settings once more, whose defaults depend on what the store holds.
    """
    if action == "stop":
        return stop(settings)
    if action == "status":
        found = status.found(settings)
        if change.json:
            print(json.dumps(found, indent=1))
        else:
            print("\n".join(status.lines(found) if found else ["not running"]))
        return 0 if found else NOT_RUNNING
    if action in CHANGES:
        end_on_sigterm()
        return CHANGES[action](settings, change)
    return serve(settings, again, action == "foreground")


def serve(settings: Settings, again: Callable[[], Settings], foreground: bool) -> int:
    """Archives -> server -> READY -> one answer; returns the exit status."""
    end_on_sigterm()
    state.prepare(settings.run_dir)
    with state.lock(settings.run_dir, state.LOCK_WAIT_S):
        if repack_shipped_model(settings):
            settings = again()
        archives = check_archives(settings)
        if server := servers.running(settings):
            require_same(server, settings, archives, foreground)
            wait_ready(server, archives)
            return show_answer(server, archives)
        server = start(settings, archives)
        try:
            wait_ready(server, archives)
            shown = show_answer(server, archives)
        except BaseException:
            servers.stop(server, drain_s=0)
            raise
    return watch(server) if foreground else shown


def repack_shipped_model(settings: Settings) -> bool:
    """Makes the store's first archive from the model that comes with the kit.

    Returns:
        Whether there was none.

    Raises:
        KitError: the store is not there, or repacking failed; its own output says why.
    """
    if any(settings.model_store.glob("*.mar")):
        return False
    if settings.model_store != MODEL_STORE and not settings.model_store.is_dir():
        raise KitError(f"--model-store {settings.model_store}: no such folder")
    say("repack", f"{settings.model_store} is empty: repacking {WEIGHTS.name} (once)")
    command = [sys.executable, str(ROOT / "repack" / "model_repack.py"), "--backend", "auto"]
    command += ["--weights", str(WEIGHTS), "--name", settings.name]
    command += ["--samples", str(PICTURES)]
    command += ["--model-store", str(settings.model_store)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # it got the same Ctrl-C: let it clean up
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    if code:
        raise KitError(f"repacking {WEIGHTS.name} failed (exit status {code}): see above")
    return True


def check_archives(settings: Settings) -> list[Archive]:
    """Checks every archive of the store and names those that are refused."""
    served, refused = survey(settings.model_store, settings.guests)
    for line in refused:
        say("refused", line)
    require(settings.name, settings.model_store, served, refused)
    for archive in served:
        if archive.passport is None:
            say("guest", f"{archive.path.name}: {NOT_PROVEN}")
        if archive.foreign:
            say("code", f"{archive.path.name}: {FOREIGN.format(archive.foreign)}")
        if settings.otel_exporter_otlp_endpoint and not archive.traces:
            say("traces", f"{archive.path.name}: packed by a kit without traces, so it sends none")
    say("archives", ", ".join(f"{a.name} {a.version} ({a.task})" for a in served))
    return served


def start(settings: Settings, archives: Sequence[Archive]) -> Server:
    """Starts the server in the background."""
    server = servers.start(settings, archives)
    say(
        "server",
        f"process {server.state.pid}, {settings.workers} x {settings.threads} threads for"
        f" {settings.name}, batch {settings.batch_size}",
    )
    say("logs", short(settings.run_dir / "logs"))
    if settings.is_exposed and not settings.needs_tokens:
        say("open", f"whoever reaches {settings.host}:{settings.port} may ask, without a token")
    return server


def require_same(
    server: Server, settings: Settings, archives: Sequence[Archive], foreground: bool
) -> None:
    """Checks that the running server is the one that was asked for.

    Raises:
        KitError: names the first difference and the command that resolves it.
    """
    again = "stop it first: bash run.sh --stop"
    pid = server.state.pid
    if foreground:
        raise KitError(f"already running in the background (process {pid}); {again}")
    # First: defaults follow from what the store holds.
    if server.state.archives != {a.path.name: a.sha256 for a in archives}:
        if server.state.archives.keys() == {a.path.name for a in archives}:
            again = "have them served without a gap: bash run.sh --update; or " + again
        raise KitError(f"already running (process {pid}) with other archives; {again}")
    before = server.state.settings
    for key, value in settings.record().items():
        if before.get(key) != value and key not in ("drain_timeout", "startup_timeout"):
            raise KitError(
                f"already running (process {pid}) with {key.upper()}={before.get(key)},"
                f" asked for {value}; {again}"
            )
    say("server", f"already running, process {pid}")


def wait_ready(server: Server, archives: Sequence[Archive]) -> None:
    """Waits for the named model, then for the others; these do not stop it when they fail."""
    settings = server.settings
    begin = time.monotonic()

    def tell(waited: float) -> None:
        if int(waited) % 10 == 0:
            say("model", f"{settings.name} is loading, {waited:.0f} s")

    server.wait_ready(settings.name, tell)
    say("model", f"{settings.name} READY after {time.monotonic() - begin:.1f} s")
    for archive in archives:
        if archive.name != settings.name:
            try:
                server.wait_ready(archive.name)
                say("model", f"{archive.name} READY")
            except KitError as e:
                say("model", f"not served: {e}")
                server.client.set_workers(archive.name, 0)


def show_answer(server: Server, archives: Sequence[Archive]) -> int:
    """Sends one sample picture and shows the answer and the line to try next."""
    settings = server.settings
    path = sample_for(next(a.task for a in archives if a.name == settings.name))
    if path is None:
        say("next", curl_line(settings, Path("INPUT")))
        return 0
    answer = server.client.predict(settings.name, path.read_bytes(), settings.response_timeout)
    say("sample", f"{short(path)} -> {answer.status}")
    print(pretty(answer.body))
    say("next", curl_line(settings, path))
    if settings.needs_tokens:
        say("tokens", f"callers need one from {short(settings.run_dir / 'key_file.json')}")
    return 0 if answer.status == 200 else 1


def stop(settings: Settings) -> int:
    """Stops the server of this run folder, if there is one."""
    if not settings.run_dir.is_dir():
        say("server", "not running")
        return 0
    with state.lock(settings.run_dir, state.LOCK_WAIT_S):
        server = servers.running(settings)
        if server is None:
            servers.clean_up(settings)
            say("server", "not running")
            return 0
        idle = servers.stop(server)
        say("server", "stopped" if idle else "stopped while requests were in flight")
    return 0
