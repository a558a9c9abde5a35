"""The command line."""

from __future__ import annotations

import argparse
import math
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest import inputs, running
from qpstest.http_api import split_url
from qpstest.masks import GZIP

ROOT = Path(__file__).resolve().parent.parent
LOCAL_PORTABLE, LOCAL_ACCELERATED, SERVED = 1, 2, 3
LABELS = {LOCAL_PORTABLE: "1 portable", LOCAL_ACCELERATED: "2 accelerated", SERVED: "3 served"}

USUAL: dict[str, Any] = {
    "concurrency": "1,4,16",
    "requests": 200,
    "warmup": None,
    "accept": "application/json",
    "timeout": 60.0,
}
"""What is asked where the flags do not say; ``warmup`` then depends on the concurrency."""
USUAL_OF_VOLUMES = {
    "concurrency": "1,4",
    "requests": 8,
    "warmup": 1,
    "accept": GZIP,
    "timeout": 600.0,
}
"""Likewise where the inputs are volumes, each of which takes seconds and is answered by a mask."""


@dataclass(frozen=True)
class Server:
    """Where the server's interfaces are, and the tokens they ask for."""

    url: str
    management_url: str
    metrics_url: str
    grpc_address: str
    token: str | None
    management_token: str | None


@dataclass(frozen=True)
class Options:
    """What was asked for; see ``python qpstest --help`` for each field."""

    modes: tuple[int, ...]
    name: str
    input: Path
    volumes: bool
    concurrency: tuple[int, ...]
    requests: int
    duration: float
    warmup: int | None
    stable: bool
    rounds: int
    max_windows: int
    json: Path | None
    plot: Path | None
    vis: bool
    vis_out: Path
    model_store: Path
    server: Server
    protocol: str
    accept: str
    timeout: float
    clients: int
    processes: int | None
    threads: int | None
    batches: tuple[int, ...]
    command: str


def parse(arguments: list[str]) -> Options:
    """Reads the command line.

    Raises:
        KitError: a value that cannot be meant, in one line.
        SystemExit: an unknown flag (2), or ``--help`` (0).
    """
    a = parser().parse_args(arguments)
    volumes = inputs.are_volumes(a.input)
    for flag, value in (USUAL_OF_VOLUMES if volumes else USUAL).items():
        if getattr(a, flag) is None:
            setattr(a, flag, value)
    counts = ("rounds", "max_windows", "clients", "processes", "threads")
    least_of = {"requests": 0, "duration": 0, "warmup": 0, **dict.fromkeys(counts, 1)}
    for flag, least in least_of.items():
        value = getattr(a, flag)
        if value is not None and (value < least or not math.isfinite(value)):
            raise KitError(f"--{flag.replace('_', '-')} {value}: at least {least} was expected")
    if not (a.timeout > 0 and math.isfinite(a.timeout)):
        raise KitError(f"--timeout {a.timeout}: seconds above 0 were expected")
    return Options(
        modes=_modes(a.mode),
        name=a.name,
        input=a.input,
        volumes=volumes,
        concurrency=_counts("concurrency", a.concurrency),
        requests=a.requests,
        duration=a.duration,
        warmup=a.warmup,
        stable=a.stable,
        rounds=a.rounds,
        max_windows=a.max_windows,
        json=a.json,
        plot=a.plot,
        vis=bool(a.vis),
        vis_out=a.vis_out,
        model_store=a.model_store,
        server=_server(a),
        protocol=a.protocol,
        accept=a.accept,
        timeout=a.timeout,
        clients=a.clients,
        processes=a.processes,
        threads=a.threads,
        batches=tuple(sorted(_counts("batch", a.batch))) if a.batch else (),
        command=_shown(arguments),
    )


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python qpstest",
        description="Measures a model of model_store/: in processes of its own, and served.",
        epilog="qpstest/README.md says what each figure means.",
    )
    flag = p.add_argument
    flag("--mode", default="3",
         help="1 the archive's portable TorchScript module, locally; 2 its accelerated "
         "artefact, locally; 3 served; all, or a list such as 2,3 (default 3)")  # fmt: skip
    flag("--name", default="fd1", help="the model's name (default fd1)")
    flag("--input", type=Path, default=ROOT / "examples" / "pictures",
         help="a file, or a folder whose files take turns (default examples/pictures)")  # fmt: skip
    flag("--concurrency", metavar="LIST",
         help="requests in flight (default 1,4,16; volumes 1,4)")  # fmt: skip
    flag("--requests", type=int, metavar="N",
         help="counted per concurrency; 0 measures nothing (default 200; volumes 8)")  # fmt: skip
    flag("--duration", type=float, default=0.0, metavar="S",
         help="seconds per concurrency, in place of --requests")  # fmt: skip
    flag("--warmup", type=int, metavar="N",
         help="uncounted requests before (default: 10, or 2 x concurrency; volumes 1)")  # fmt: skip
    flag("--stable", action="store_true",
         help="repeat each measurement until the throughput of three in a row lies within "
         "10 %% of their mean; those three are reported")  # fmt: skip
    flag("--rounds", type=int, default=1, metavar="N",
         help="measure all modes N times in turn and report each one's median round, where other "
         "work comes and goes on the machine (default 1)")  # fmt: skip
    flag("--max-windows", type=int, default=10, metavar="N",
         help="with --stable: give up after (default 10)")  # fmt: skip
    flag("--json", type=Path, metavar="FILE", help="write all figures to this file")
    flag("--plot", type=Path, metavar="FILE",
         help="draw throughput, latency and where the time goes to this PNG")  # fmt: skip
    flag("--vis", type=int, choices=(0, 1), default=0,
         help="1: draw what each mode detects, or its masks, side by side")  # fmt: skip
    flag("--vis-out", type=Path, default=Path("qpstest_vis.png"), metavar="FILE",
         help="the picture that --vis 1 writes (default qpstest_vis.png)")  # fmt: skip
    served = p.add_argument_group("served (mode 3)", "Where run.sh of this checkout is running, "
                                  "its addresses and tokens are the defaults.")  # fmt: skip
    flag = served.add_argument
    flag("--protocol", choices=("http", "grpc"), default="http")
    flag("--url", help="inference address, in place of --host and --port")
    flag("--host", help="default $HOST or 127.0.0.1")
    flag("--port", type=int, help="default $PORT or 8080")
    flag("--management-url", metavar="URL", help="default: the port after the inference port")
    flag("--metrics-url", metavar="URL", help="default: the second port after it")
    flag("--grpc-port", type=int, metavar="PORT", help="default $GRPC_PORT or 7070")
    flag("--token", help="inference token, where the server asks for one")
    flag("--management-token", metavar="TOKEN", help="for worker memory and batch settings")
    flag("--accept", metavar="TYPE",
         help="media type asked for (default application/json, for volumes application/gzip, a "
         "NIfTI mask; both are checked)")  # fmt: skip
    flag("--timeout", type=float, metavar="S", help="per request (default 60; volumes 600)")
    flag("--clients", type=int, default=1, metavar="N",
         help="client processes that share the connections (default 1)")  # fmt: skip
    local = p.add_argument_group("local (modes 1 and 2)", "The defaults are those of the running "
                                 "server, else those that run.sh would take.")  # fmt: skip
    flag = local.add_argument
    flag("--model-store", type=Path, default=ROOT / "model_store", metavar="DIR",
         help="where NAME.mar is (default model_store)")  # fmt: skip
    flag("--processes", type=int, metavar="N", help="processes that share the cores (workers)")
    flag("--threads", type=int, metavar="N", help="threads of each process")
    flag("--batch", metavar="LIST",
         help="most items that the handler gets at once; 1,4: without, with batching")  # fmt: skip
    return p


def _server(a: argparse.Namespace) -> Server:
    """Addresses and tokens: flags, else variables, else the running server's, else run.sh's."""
    env = os.environ
    explicit = bool(a.url or a.host or a.port or env.get("HOST") or env.get("PORT"))
    found = None
    if not explicit:
        found = running.find(Path(env.get("RUN_DIR") or ROOT / ".run"))
    host = a.host or env.get("HOST") or (found.host if found else "127.0.0.1")
    port = a.port or _number("PORT") or (found.port if found else 8080)
    url = a.url or f"http://{_address(host)}:{port}"
    secure, host, port = split_url(url)
    scheme = "https" if secure else "http"
    beside = f"{scheme}://{_address(found.management_host if found else host)}"
    grpc_port = a.grpc_port or _number("GRPC_PORT") or (found.grpc_port if found else 7070)
    token = a.token or (found.token if found else None)
    management_token = a.management_token or (found.management_token if found else None)
    return Server(
        url=url,
        management_url=a.management_url or f"{beside}:{port + 1}",
        metrics_url=a.metrics_url or f"{beside}:{port + 2}",
        grpc_address=f"{_address(host)}:{grpc_port}",
        token=token,
        management_token=management_token or token,
    )


def _modes(text: str) -> tuple[int, ...]:
    if text.strip() == "all":
        return (LOCAL_PORTABLE, LOCAL_ACCELERATED, SERVED)
    parts = {part.strip() for part in text.split(",")}
    if not parts <= {"1", "2", "3"}:
        raise KitError(f"--mode {text!r}: 1, 2, 3, all or a list such as 2,3 was expected")
    return tuple(sorted(int(part) for part in parts))


def _counts(flag: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 4096 for part in parts):
        raise KitError(
            f"--{flag} {text!r}: whole numbers from 1 to 4096 with commas were expected, "
            "for example 1,4,16"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def _number(variable: str) -> int:
    text = os.environ.get(variable, "").strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def _address(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets, "everywhere" as this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _shown(arguments: list[str]) -> str:
    """The command for a report, its tokens hidden."""
    shown, hide = ["python", "qpstest"], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = name.startswith("--") and name.endswith("token")
        shown.append("HIDDEN" if hide else f"{name}=HIDDEN" if secret and equals else argument)
        hide = secret and not equals
    return shlex.join(shown)
