"""The command line."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from handlers.errors import KitError
from qpstest import running, tasks
from qpstest.arrivals import Arrivals, Load, recorded
from qpstest.flags import PERCENTILES, ROOT, parser
from qpstest.http_api import split_url
from repack.tasks.load_test import LoadTest

LOCAL_PORTABLE, LOCAL_ACCELERATED, SERVED = 1, 2, 3
LABELS = {LOCAL_PORTABLE: "1 portable", LOCAL_ACCELERATED: "2 accelerated", SERVED: "3 served"}

PORTS: dict[str, tuple[int, int]] = {
    "torchserve": (8080, 7070),
    "ray": (8000, 9000),
    "kserve": (8080, 8081),
    "triton": (8000, 8001),
    "url": (80, 0),
}
"""Each kind of server's usual ports for HTTP and gRPC."""
OPEN_SECONDS = 10.0
"""How long an open loop lasts where no flag says."""


@dataclass(frozen=True)
class Server:
    """Where the server's interfaces are, and the tokens they ask for.

    Attributes:
        kind: of ``PORTS``.
        url: without a path.
        path: of the given address; "" where it has none.
    """

    kind: str
    url: str
    path: str
    management_url: str
    metrics_url: str
    grpc_address: str
    token: str | None
    management_token: str | None


@dataclass(frozen=True)
class Limit:
    """The latency that is allowed: a percentile (or "mean", "max") and milliseconds."""

    percentile: str
    ms: float

    @property
    def name(self) -> str:
        return f"{self.percentile}={self.ms:g}"

    @property
    def share(self) -> float:
        """Of the requests that have to be within it; half of them for a mean."""
        return {"mean": 0.0, "max": 1.0}.get(self.percentile) or float(
            self.percentile[1:] if self.percentile[1:].isdigit() else 0
        ) / 100


@dataclass(frozen=True)
class Options:
    """What was asked for; see ``python qpstest --help`` for each field."""

    modes: tuple[int, ...]
    name: str
    input: Path
    task: LoadTest
    concurrency: tuple[int, ...]
    rates: tuple[float, ...]
    rate_range: tuple[float, float] | None
    arrivals: Arrivals
    limit: Limit | None
    requests: int
    duration: float
    warmup: int | None
    stable: bool
    rounds: int
    max_windows: int
    report: str
    json: Path | None
    csv: Path | None
    plot: Path | None
    vis: bool
    vis_out: Path
    model_store: Path
    server: Server
    protocol: str
    accept: str
    timeout: float
    clients: int
    connections: int
    seed: int
    processes: int | None
    threads: int | None
    batches: tuple[int, ...]
    tune: bool
    apply: bool
    cores: int | None
    memory_mb: int | None
    command: str

    @property
    def loads(self) -> list[Load]:
        """What is measured, one after the other."""
        if not self.rates:
            return [Load(concurrency=c) for c in self.concurrency]
        return [Load(arrivals=self.at(rate)) for rate in self.rates]

    def at(self, rate: float, seconds: float | None = None) -> Arrivals:
        """The arrivals at a rate, for as long as was asked for or for ``seconds``."""
        if self.arrivals.kind == "recorded":
            return self.arrivals
        lasts = seconds or self.duration
        return replace(self.arrivals, rate=rate, count=0 if lasts else self.requests, seconds=lasts)


FindTask = Callable[[argparse.Namespace, Server], LoadTest]


def by_inputs(a: argparse.Namespace, server: Server) -> LoadTest:
    """The hooks of the task whose inputs the files' names are."""
    return tasks.choose(None, a.input)


def parse(arguments: list[str], find_task: FindTask = by_inputs) -> Options:
    """Reads the command line.

    Args:
        find_task: asked for the model's task, on which some defaults depend.

    Raises:
        KitError: a value that cannot be meant, in one line.
        SystemExit: an unknown flag (2), or ``--help`` (0).
    """
    return settle(parser().parse_args(arguments), arguments, find_task)


def settle(a: argparse.Namespace, arguments: list[str], find_task: FindTask) -> Options:
    """The options of a parsed command line; raises ``KitError`` as ``parse``."""
    modes = _modes(a.mode)
    limit = latency_limit(a.latency_limit) if a.latency_limit else None
    rates, rate_range = _rates(a.rate) if a.rate else ((), None)
    arrivals = _arrivals(a, rates)
    if arrivals.kind == "recorded":
        rates = (arrivals.rate,)
    server = _server(a)
    task = find_task(a, server)
    if (rates or limit) and a.requests is None and not a.duration:
        a.duration = OPEN_SECONDS
    for flag, value in asdict(task.usual).items():
        if getattr(a, flag) is None:
            setattr(a, flag, value)
    counts = ("rounds", "max_windows", "clients", "connections", "processes", "threads", "cores",
              "memory")  # fmt: skip
    least_of = {"requests": 0, "duration": 0, "warmup": 0, **dict.fromkeys(counts, 1)}
    for flag, least in least_of.items():
        value = getattr(a, flag)
        if value is not None and (value < least or not math.isfinite(value)):
            raise KitError(f"--{flag.replace('_', '-')} {value}: at least {least} was expected")
    if not (a.timeout > 0 and math.isfinite(a.timeout)):
        raise KitError(f"--timeout {a.timeout}: seconds above 0 were expected")
    return Options(
        modes=modes,
        name=a.name,
        input=a.input,
        task=task,
        concurrency=_counts("concurrency", a.concurrency),
        rates=rates,
        rate_range=rate_range,
        arrivals=arrivals,
        limit=limit,
        requests=a.requests,
        duration=a.duration,
        warmup=a.warmup,
        stable=a.stable,
        rounds=a.rounds,
        max_windows=a.max_windows,
        report=a.report,
        json=a.json,
        csv=a.csv,
        plot=a.plot,
        vis=bool(a.vis),
        vis_out=a.vis_out,
        model_store=a.model_store,
        server=server,
        protocol=a.protocol,
        accept=a.accept,
        timeout=a.timeout,
        clients=a.clients,
        connections=a.connections,
        seed=a.seed,
        processes=a.processes,
        threads=a.threads,
        batches=tuple(sorted(_counts("batch", a.batch))) if a.batch else (),
        tune=a.tune,
        apply=a.apply,
        cores=a.cores,
        memory_mb=a.memory,
        command=_shown(arguments),
    )


def _server(a: argparse.Namespace) -> Server:
    """Addresses and tokens: flags, else variables, else the running server's, else run.sh's."""
    env = os.environ
    ours = a.server == "torchserve"
    usual_port, usual_grpc_port = PORTS[a.server]
    explicit = bool(a.url or a.host or a.port or env.get("HOST") or env.get("PORT"))
    found = None
    if ours and not explicit:
        found = running.find(Path(env.get("RUN_DIR") or ROOT / ".run"))
    if a.server == "url" and not a.url:
        raise KitError("--server url: the address was expected, --url http://host:port/path")
    if a.protocol == "grpc" and a.server in ("ray", "url"):
        raise KitError(f"--protocol grpc: torchserve, kserve or triton was expected, {a.server}")
    host = a.host or env.get("HOST") or (found.host if found else "127.0.0.1")
    port = a.port or (_number("PORT") if ours else 0) or (found.port if found else usual_port)
    url = a.url or f"http://{_address(host)}:{port}"
    secure, host, port = split_url(url)
    scheme = "https" if secure else "http"
    beside = f"{scheme}://{_address(found.management_host if found else host)}"
    grpc_port = a.grpc_port or (_number("GRPC_PORT") if ours else 0) or usual_grpc_port
    if found and not a.grpc_port and not _number("GRPC_PORT"):
        grpc_port = found.grpc_port
    token = a.token or (found.token if found else None)
    management_token = a.management_token or (found.management_token if found else None)
    parts = urlsplit(url if "://" in url else f"http://{url}")
    return Server(
        kind=a.server,
        url=f"{scheme}://{_address(host)}:{port}",
        path=parts.path + (f"?{parts.query}" if parts.query else ""),
        management_url=a.management_url or f"{beside}:{port + 1}",
        metrics_url=a.metrics_url or f"{beside}:{port + 2}",
        grpc_address=f"{_address(host)}:{grpc_port}",
        token=token,
        management_token=management_token or token,
    )


def latency_limit(text: str) -> Limit:
    """Reads ``p99=50``; raises ``KitError`` where it is something else."""
    name, _, value = text.partition("=")
    with contextlib.suppress(ValueError):
        ms = float(value)
        if name.strip() in PERCENTILES and 0 < ms < math.inf:
            return Limit(name.strip(), ms)
    raise KitError(
        f"--latency-limit {text!r}: one of {', '.join(PERCENTILES)} and milliseconds were "
        "expected, for example p99=50"
    )


def rates_of(text: str) -> tuple[float, ...]:
    """The rates of ``--rate``; raises ``KitError`` where it is something else."""
    return _rates(text)[0] if text else ()


def _rates(text: str) -> tuple[tuple[float, ...], tuple[float, float] | None]:
    """The rates of a list or of start:end:step, and the range of the latter."""
    wrong = KitError(
        f"--rate {text!r}: requests per second above 0 were expected: 30, 10,20,30, or "
        "start:end:step"
    )
    parts = text.split(":")
    try:
        numbers = [float(part) for part in (parts if len(parts) > 1 else text.split(","))]
    except ValueError:
        raise wrong from None
    if not all(0 < n < math.inf for n in numbers) or len(parts) > 3:
        raise wrong
    if len(parts) == 1:
        return tuple(dict.fromkeys(numbers)), None
    start, end = numbers[0], numbers[1]
    step = numbers[2] if len(numbers) == 3 else end - start
    if end <= start or step <= 0 or (end - start) / step > 1000:
        raise wrong
    count = math.floor((end - start) / step + 1e-9)
    return tuple(round(start + i * step, 9) for i in range(count + 1)), (start, end)


def _arrivals(a: argparse.Namespace, rates: Sequence[float]) -> Arrivals:
    """How requests arrive; the rate is filled in later."""
    kind = a.arrivals or "constant"
    if kind in ("constant", "poisson"):
        if a.arrivals and not rates and not a.latency_limit:
            raise KitError(f"--arrivals {kind}: a --rate was expected with it")
        return Arrivals(kind, rates[0] if rates else 1.0, seed=a.seed)
    if len(rates) > 1 or a.latency_limit:
        raise KitError(f"--arrivals {kind}: at most one --rate was expected with a file's times")
    return recorded(Path(kind), rates[0] if rates else None)


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
