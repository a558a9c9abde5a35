"""What can be set when serving: each setting is a flag, an environment variable and a default."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from deploy.torchserve import defaults
from handlers.errors import KitError
from handlers.memory import machine_memory

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def cores() -> int:
    """CPU cores this process may use: its affinity, bounded by the container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed or 1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no container, or no quota ("max")
        return allowed or 1


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from ``low`` to ``high``."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text.strip()) or not low <= int(text) <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, got {text!r}")
        return int(text)

    return read


def model_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"expected letters, digits, dots, dashes and underscores, got {text!r}")
    return text


def address(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,253}", text):
        raise ValueError(f"expected an IPv4 address or a host name, got {text!r}")
    return text


def web(text: str) -> str:
    if not re.fullmatch(r"https?://[!-~]{1,1000}", text):
        raise ValueError(f"expected an address such as http://127.0.0.1:4318, got {text!r}")
    return text


def folder(text: str) -> Path:
    return Path(text).expanduser().absolute()


def yes(text: str) -> bool:
    if text not in ("0", "1", ""):
        raise ValueError(f"expected 0 or 1, got {text!r}")
    return text == "1"


@dataclass(frozen=True)
class Option:
    """One setting: its field in ``Settings``, how its text is read, its default and its help."""

    field: str
    read: Callable[[str], Any]
    default: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        return self.field.upper()


PORT = whole(1, 65533)
OPTIONS = (
    Option("name", model_name, "fd1", "model that gets the workers and the sample request"),
    Option("model_store", folder, str(ROOT / "model_store"), "folder with the archives to serve"),
    Option("workers", whole(1, 256), "", "worker processes (default: one per core, at most 4)"),
    Option("threads", whole(1, 256), "", "threads per worker (default: cores over workers)"),
    Option("batch_size", whole(1, 1024), "1", "most requests that a worker answers together"),
    Option("max_batch_delay", whole(1, 60000), "5", "ms that a worker waits for a batch to fill"),
    Option("queue", whole(1, 1000000), "100", "waiting requests per model before 503"),
    Option("host", address, "127.0.0.1", "address for predictions; beyond loopback, tokens are on"),
    Option("port", PORT, "8080", "HTTP port; management and metrics take the next two"),
    Option("grpc_port", PORT, "7070", "gRPC port; gRPC management takes the next one"),
    Option("v2_grpc_port", whole(0, 65533), "0", "gRPC port of the v2 protocol; 0: none"),
    Option("management_host", address, "127.0.0.1", "address for management and metrics"),
    Option("metrics_host", address, "", "address for metrics (default: that of management)"),
    Option("max_request_mb", whole(1, 1024), defaults.REQUEST_MB, "MiB of a request or answer"),
    Option("volume_memory_mb", whole(1, 9999999), "", "MiB that one worker's volumes may take"),
    Option("response_timeout", whole(1, 86400), "120", "s before a silent worker is replaced"),
    Option("startup_timeout", whole(1, 86400), "120", "s for the model to become READY"),
    Option("drain_timeout", whole(0, 3600), "30", "s that stopping waits for requests in flight"),
    Option("tokens", yes, "0", "1: callers need a token on loopback too"),
    Option("without_tokens", yes, "0", "1: no tokens: whoever reaches HOST may ask"),
    Option("token_hours", whole(1, 87600), "720", "life of the access tokens, where they are on"),
    Option("access_log", yes, "0", "1: one log line per request"),
    Option("system_metrics", yes, "0", "1: CPU, memory and disk on the metrics page, every minute"),
    Option("guests", yes, "0", "1: serve archives that another program made, too: none is proven"),
    Option("otel_exporter_otlp_endpoint", web, "", "collector of traces, OTLP over HTTP"),
    Option("run_dir", folder, str(ROOT / ".run"), "folder for logs and state"),
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Checked settings; sizes in MiB, times in the unit of the option's help."""

    name: str
    model_store: Path
    workers: int
    threads: int
    batch_size: int
    max_batch_delay: int
    queue: int
    host: str
    port: int
    grpc_port: int
    v2_grpc_port: int
    management_host: str
    metrics_host: str
    max_request_mb: int
    volume_memory_mb: int
    response_timeout: int
    startup_timeout: int
    drain_timeout: int
    tokens: bool
    without_tokens: bool
    token_hours: int
    access_log: bool
    system_metrics: bool
    guests: bool
    otel_exporter_otlp_endpoint: str
    run_dir: Path

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """What listens where: purpose -> (host, port)."""
        return {
            "predictions": (self.host, self.port),
            "management": (self.management_host, self.port + 1),
            "metrics": (self.metrics_host, self.port + 2),
            "gRPC predictions": (self.host, self.grpc_port),
            "gRPC management": (self.management_host, self.grpc_port + 1),
            **({"gRPC v2": (self.host, self.v2_grpc_port)} if self.v2_grpc_port else {}),
        }

    @property
    def needs_tokens(self) -> bool:
        """Whether callers need a token: it was asked for, or a port is open beyond this machine."""
        return self.tokens or (self.is_exposed and not self.without_tokens)

    @property
    def is_exposed(self) -> bool:
        """Whether a port is open beyond this machine."""
        return not (is_loopback(self.host) and is_loopback(self.management_host))

    def record(self) -> dict[str, Any]:
        """The settings as JSON values; equal records start equal servers."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}


def is_loopback(host: str) -> bool:
    """Whether every address of the host is this machine's own."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET)
    except OSError as e:
        raise KitError(f"host {host} is not known here ({e.strerror}): give an address") from None
    return all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


def reachable(host: str) -> str:
    """The address by which this machine itself reaches a server that listens on ``host``."""
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104


def make(values: Mapping[str, str]) -> Settings:
    """Settings from texts by field name; what is missing takes its default.

    Raises:
        KitError: a value is not what its option expects, or two ports are the same.
    """
    given: dict[str, Any] = {}
    for option in OPTIONS:
        text = values.get(option.field) or option.default
        try:
            given[option.field] = option.read(text) if text else None
        except ValueError as e:
            raise KitError(f"{option.flag} or {option.variable}: {e}") from None
    given["metrics_host"] = given["metrics_host"] or given["management_host"]
    given["workers"] = given["workers"] or min(cores(), 4)
    given["threads"] = given["threads"] or max(1, cores() // given["workers"])
    given["volume_memory_mb"] = given["volume_memory_mb"] or share_of_memory(given["workers"])
    given["otel_exporter_otlp_endpoint"] = given["otel_exporter_otlp_endpoint"] or ""
    settings = Settings(**given)
    numbers = [port for _, port in settings.ports.values()]
    if len(set(numbers)) < len(numbers):
        raise KitError(f"the ports {sorted(numbers)} overlap: choose PORT and GRPC_PORT apart")
    if settings.without_tokens and settings.tokens:
        raise KitError("--tokens 1 and --without-tokens 1 contradict each other: give one")
    if settings.without_tokens and not is_loopback(settings.management_host):
        raise KitError(
            f"--without-tokens 1 with --management-host {settings.management_host} would let anyone"
            " stop the workers: leave management on 127.0.0.1, or keep the tokens"
        )
    return settings


def share_of_memory(workers: int) -> int:
    """MiB of volumes per worker: all workers together leave a quarter of the machine's memory."""
    return max(64, machine_memory() * 3 // 4 // workers >> 20)


@dataclass(frozen=True)
class Change:
    """What ``--update`` and ``--switch`` are to do, and how ``--status`` answers.

    Attributes:
        archives: models or paths; empty for all that the store has anew.
        switch: NAME/VERSION.
        keep: the version that served stays.
        sample: a request that the new version must answer.
        json: the status is for a program.
    """

    archives: Sequence[str] = ()
    switch: str = ""
    keep: bool = False
    sample: Path | None = None
    json: bool = False


ACTIONS = {
    "setup": "only set up .venv, with what the tests need, and exit",
    "stop": "stop the server of this checkout and exit",
    "status": "show what is served, with process ids and ports, and exit",
    "foreground": "serve until Ctrl-C or SIGTERM instead of in the background",
}


def parser() -> argparse.ArgumentParser:
    """The command line of run.sh."""
    found = argparse.ArgumentParser(
        prog="run.sh",
        description="Serve the archives of the model store: set up, start, wait, show one answer.",
        epilog="Each value can also come from the environment variable of the same name in"
        " capitals (WORKERS=2 bash run.sh); a flag wins over the variable. Where the named archive"
        " takes anything but volumes and runs on an NVIDIA GPU, the defaults are 6 workers a GPU"
        " (at most one for two cores), batches of 32, a delay of 1 ms and a queue of 1000.",
    )
    action = found.add_mutually_exclusive_group()
    for name, text in ACTIONS.items():
        action.add_argument(f"--{name}", action="store_true", help=text)
    action.add_argument(
        "--update",
        metavar="ARCHIVE",
        nargs="*",
        help="load new archives (paths, or names of the store's; without any, all that are new"
        " there) beside those that serve, ask a sample, then let them answer; the old ones drain",
    )
    action.add_argument(
        "--switch",
        metavar="NAME/VERSION",
        help="let another loaded version of a model answer; all others drain and end",
    )
    found.add_argument(
        "--keep",
        action="store_true",
        help="with --update and --switch: the other versions stay at /predictions/NAME/VERSION",
    )
    found.add_argument(
        "--sample",
        metavar="FILE",
        type=folder,
        help="with --update: a request that the new version must answer"
        " (default: a sample picture)",
    )
    found.add_argument("--json", action="store_true", help="with --status: as JSON")
    for option in OPTIONS:
        default = option.default
        if default.startswith(str(ROOT)):
            default = str(Path(default).relative_to(ROOT))
        shown = f" (default: {default})" if default else ""
        bare: dict[str, Any] = {"nargs": "?", "const": "1"} if option.read is yes else {}
        found.add_argument(
            option.flag,
            metavar=option.variable,
            dest=option.field,
            help=option.help + shown,
            **bare,
        )
    return found


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> tuple[str, Settings]:
    """The action ("start" or what the flags name) and the settings.

    Raises:
        KitError: a value is not what its option expects.
        SystemExit: an unknown flag (2), or ``--help`` (0).
    """
    given = parser().parse_args(argv)
    named = (n for n in (*ACTIONS, "update", "switch") if getattr(given, n) not in (None, False))
    action = next(named, "start")
    if action not in ("update", "switch") and (given.keep or given.sample):
        raise KitError("--keep and --sample go with --update or --switch")
    if given.json and action != "status":
        raise KitError("--json goes with --status")
    values = {o.field: environ[o.variable] for o in OPTIONS if environ.get(o.variable)}
    flags = {o.field: getattr(given, o.field) for o in OPTIONS if getattr(given, o.field)}
    asked = {**values, **flags}
    store = folder(asked.get("model_store") or str(ROOT / "model_store"))
    return action, make(
        {**defaults.of(store, asked.get("name", "fd1"), defaults.gpus(), cores()), **asked}
    )


def change(argv: Sequence[str]) -> Change:
    """What the flags beside the action say."""
    given = parser().parse_args(argv)
    return Change(
        tuple(given.update or ()), given.switch or "", given.keep, given.sample, given.json
    )


assert {f.name for f in fields(Settings)} == {o.field for o in OPTIONS}  # noqa: S101
