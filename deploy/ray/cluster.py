"""What is done with a cluster: serving a store, updating a model, status, stop."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve

from deploy.hosting.model import Request
from deploy.ray import applications
from deploy.ray.applications import INGRESS, SHARED
from deploy.ray.ingress import asked_for
from deploy.ray.settings import Settings
from deploy.torchserve import ports
from deploy.torchserve.answer import say
from deploy.torchserve.archives import Archive, check, survey
from deploy.torchserve.settings import ROOT, cores
from deploy.torchserve.watch import end_on_sigterm
from handlers.errors import KitError
from repack.tasks import TASKS

PICTURES = ROOT / "examples" / "pictures"
REASON = re.compile(r"HostError: (.*)")
RUNNING = {"RUNNING"}
FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}


def run(settings: Settings) -> int:
    """Does what was asked; returns the exit status."""
    with connected(settings):
        if settings.action == "stop":
            serve.shutdown()
            say("server", "stopped")
            return 0
        if settings.action == "status":
            return show(settings)
        if settings.action == "update":
            return update(settings)
        return serve_store(settings)


@contextmanager
def connected(settings: Settings) -> Iterator[None]:
    """A cluster that runs, or one of its own that ends with the block.

    Raises:
        KitError: there is none at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What a process of the cluster writes belongs into its log, not between these lines.
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    if settings.cluster:
        host, _, port = settings.cluster.rpartition(":")
        # Ray itself tries for minutes.
        if port.isdigit() and "/" not in host and not ports.answers(host, int(port)):
            raise KitError(f"--cluster {settings.cluster}: nothing answers there")
        try:
            ray.init(settings.cluster, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as e:
            line = str(e).splitlines()[0]
            raise KitError(
                f"--cluster {settings.cluster}: no Ray cluster there, or one with another token "
                f"(RAY_AUTH_MODE, RAY_AUTH_TOKEN): {line}"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()
        return
    # Short: the names of Ray's sockets have at most 107 bytes.
    if not ports.is_free(settings.host, settings.port):
        raise KitError(f"port {settings.port} is taken by {ports.holder(settings.port)}: --port")
    with tempfile.TemporaryDirectory(prefix="kit-ray-", ignore_cleanup_errors=True) as folder:
        ray.init(
            "local",
            _node_ip_address="127.0.0.1",  # every port of the cluster is this machine's own
            _temp_dir=folder,
            include_dashboard=False,
            num_cpus=cores(),
            **quiet,
        )
        end_on_sigterm()  # Ray has taken the signal
        try:
            yield
        finally:
            ray.shutdown()


def serve_store(settings: Settings) -> int:
    """Serves every archive of the store that can be served.

    Raises:
        KitError: none can.
    """
    archives, refused = survey(settings.model_store)
    for line in refused:
        say("refused", line)
    serve.start(
        proxy_location="EveryNode",
        http_options={
            "host": settings.host,
            "port": settings.port,
            "request_timeout_s": None,
            "keep_alive_timeout_s": 75,
        },
    )
    before = table_of(settings) if INGRESS in serve.status().applications else None
    table = applications.new_table(settings)
    if settings.share is not None:
        run_application(applications.shared(settings), SHARED, None, settings)
    for archive in archives:
        try:
            load(archive, settings)
        except KitError as e:
            if before and is_served(before, archive, settings):
                raise  # it is served, and goes on as it was
            say("model", f"not served: {e}")
            continue
        table = applications.with_model(table, archive, settings, keep=True)
        say("model", f"{archive.name} {archive.version} READY")
    if not table["models"]:
        raise KitError(f"no archive in {settings.model_store} can be served")
    switch(table, settings)
    if before:
        end_others(before, table)
    say("server", f"http://{settings.host}:{settings.port}/predictions/{min(table['models'])}")
    if settings.token_file:
        say("tokens", f"callers need one from {settings.token_file}")
    if settings.cluster:
        return 0
    return until_ended()


def until_ended() -> int:
    """Waits for Ctrl-C (130) or SIGTERM (0); then requests in flight finish."""
    say("server", "serving until Ctrl-C")
    try:
        while True:
            time.sleep(3600)
    except (KeyboardInterrupt, SystemExit) as e:
        say("server", "stopping: requests in flight finish")
        serve.shutdown()
        say("server", "stopped")
        return 130 if isinstance(e, KeyboardInterrupt) else 0


def load(archive: Archive, settings: Settings) -> Any:
    """Deploys an archive beside all others and waits until it runs; returns its handle.

    Where models share replicas, one of these loads it.

    Raises:
        KitError: why it does not; nothing of it is left, but for replicas that ran before.
    """
    entry = applications.entry(archive, settings)
    name = entry["app"]
    ran = name in serve.status().applications
    if name == SHARED:
        if not ran:
            run_application(applications.shared(settings), SHARED, None, settings)
        handle = asked_for(serve.get_app_handle(SHARED), entry)
        try:
            handle.describe.remote().result(timeout_s=settings.startup_timeout)
        except Exception as e:  # what loading raised, or its replica is gone, or it takes too long
            known = REASON.findall(str(e))
            raise KitError(known[-1] if known else f"{archive.name}: {type(e).__name__}") from None
        return handle
    try:
        run_application(applications.model(archive, settings), name, None, settings)
    except BaseException:
        if not ran:
            serve.delete(name)
        raise
    return serve.get_app_handle(name)


def run_application(made: Any, name: str, prefix: str | None, settings: Settings) -> None:
    """Has an application deployed under a name, and waits until it runs.

    Raises:
        KitError: as ``wait_running``.
    """
    target = serve.RunTarget(made, name, prefix)
    serve.run_many([target], wait_for_applications_running=False)
    wait_running(name, settings.startup_timeout)


def wait_running(name: str, timeout: float) -> None:
    """Waits for an application.

    Raises:
        KitError: it failed, with its reason, or is not there in time.
    """
    end = time.monotonic() + timeout
    while True:
        found = serve.status().applications.get(name)
        status = found.status if found else "DEPLOYING"
        if status in RUNNING:
            return
        if found and status in FAILED:
            raise KitError(reason(found))
        if time.monotonic() > end:
            raise KitError(f"{name}: {status} after {timeout:.0f} s: {reason(found)}")
        time.sleep(0.1)


def reason(found: Any) -> str:
    """Why an application does not run, in one line."""
    told = [found.message, *(d.message for d in found.deployments.values())] if found else []
    text = "\n".join(told)
    known = REASON.findall(text)
    lines = [line for line in text.splitlines() if line.strip()]
    return known[-1] if known else (lines[-1].strip() if lines else "nothing was said")


def switch(table: Mapping[str, Any], settings: Settings) -> None:
    """Gives the ingress its table: requests that come from now on are answered by it."""
    nodes = sum(node["Alive"] for node in ray.nodes())
    run_application(applications.ingress(table, settings, {}, nodes), INGRESS, "/", settings)


def update(settings: Settings) -> int:
    """The new archive beside the old one, asked a sample, then in its place.

    Raises:
        KitError: the new one cannot be served; the old one goes on.
    """
    archive = check(settings.archive)
    table = table_of(settings)
    app = applications.entry(archive, settings)["app"]
    if is_served(table, archive, settings):
        if table["models"][archive.name]["default"] == archive.version:
            raise KitError(f"{archive.name} {archive.version}: this very archive is served already")
    else:
        handle = load(archive, settings)
        try:
            ask_sample(archive, handle, settings)
        except BaseException:
            if app not in apps(table):
                serve.delete(app)
            raise
    after = applications.with_model(table, archive, settings, settings.keep)
    switch(after, settings)
    say("model", f"{archive.name} {archive.version} answers")
    end_others(table, after)
    return 0


def table_of(settings: Settings) -> dict[str, Any]:
    """The table of the ingress that runs.

    Raises:
        KitError: there is none, or it is a RayService's.
    """
    found = serve.status().applications.get(INGRESS)
    if found is None:
        raise KitError(f"--cluster {settings.cluster}: nothing of this kit is served there")
    if len(found.deployments) > 1:
        raise KitError(
            f"--cluster {settings.cluster}: a RayService serves there: change its manifest"
        )
    table: dict[str, Any] = serve.get_app_handle(INGRESS).table.remote().result()
    return table


def end_others(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Ends applications that no table names any more; their requests in flight finish."""
    for old in sorted(apps(before) - apps(after)):
        serve.delete(old)
        say("model", f"{old} has ended")


def apps(table: Mapping[str, Any]) -> set[str]:
    """The applications that a table names."""
    return {v["app"] for m in table["models"].values() for v in m["versions"].values()}


def is_served(table: Mapping[str, Any], archive: Archive, settings: Settings) -> bool:
    """Whether a table has this very archive, in replicas as the settings want."""
    known = table["models"].get(archive.name, {"versions": {}})["versions"]
    return bool(known.get(archive.version) == applications.entry(archive, settings))


def ask_sample(archive: Archive, handle: Any, settings: Settings) -> None:
    """Asks a loaded archive before others do.

    Raises:
        KitError: it does not answer 200, or there is no sample to ask.
    """
    task = TASKS.get(archive.task)
    path = settings.sample
    if path is None and task is not None and task.takes_pictures:
        path = min(PICTURES.glob("*.jpg"))
    if path is None:
        raise KitError(f"{archive.name}: give --sample FILE, a request that it must answer")
    try:
        body = path.read_bytes()
    except OSError as e:
        raise KitError(f"--sample {path}: cannot be read ({e.strerror})") from None
    request = Request(body, {})
    try:
        answer = handle.answer.remote(request).result(timeout_s=settings.response_timeout)
    except Exception as e:  # its replica is gone, or it does not answer in time
        raise KitError(f"{archive.name}: no answer to {path.name} ({type(e).__name__})") from None
    if answer.status != 200:
        raise KitError(f"{archive.name}: {path.name} -> {answer.status}: {answer.body[:300]!r}")
    say("sample", f"{path.name} -> 200")


def show(settings: Settings) -> int:
    """Prints what is served, as JSON; 3 where nothing is."""
    status = serve.status()
    if INGRESS not in status.applications:
        print("not running")
        return 3
    table = table_of(settings)
    found: dict[str, Any] = {}
    for model, entry in table["models"].items():
        for version, served in entry["versions"].items():
            app = status.applications.get(served["app"])
            states: Mapping[str, int] = app.deployments["model"].replica_states if app else {}
            found.setdefault(model, {})[version] = {
                "default": version == entry["default"],
                "status": app.status.value if app else "missing",
                "replicas": dict(states),
                "sha256": served["sha256"],
            }
    nodes = sorted(n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"])
    print(json.dumps({"models": found, "nodes": nodes}, indent=1))
    return 0
