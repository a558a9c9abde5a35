"""``--tune`` on this machine: a server of its own for each measurement, on free ports."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.torchserve import defaults, state
from deploy.torchserve import server as servers
from deploy.torchserve.archives import Archive, require, survey
from deploy.torchserve.settings import cores, make
from handlers.entry import OWN_VARIABLE
from handlers.errors import KitError
from qpstest import report, search, tune
from qpstest.arrivals import Load
from qpstest.fleet import Fleet
from qpstest.measure import Measurement
from qpstest.options import SERVED, Limit, Options
from qpstest.torchserve import TorchServe
from qpstest.tune import Candidate, Sample, Tuned
from repack.tasks import TASKS

STEP = 0.4
"""Of a measurement's seconds, those of one rate that is tried."""
STEPS = 5
CONFIRM_SECONDS = 16.0

LIMITS = {field for task in TASKS.values() for field in task.server}
"""Settings that follow from what the store holds."""


class Tuning:
    """Measures candidates one after the other.

    Args:
        options: the command line, for the model, its store and its limits.
        bodies: the inputs.
    """

    def __init__(self, options: Options, bodies: Sequence[bytes]):
        self._options = options
        self._bodies = bodies
        store = options.model_store
        served, refused = survey(store)
        self._archive: Archive = require(options.name, store, served, refused)
        self._cores = options.cores or cores()
        usual = defaults.of(store, options.name, defaults.gpus(), cores())
        self._on_gpu = usual.get("queue") == defaults.GPU["queue"]
        self._usual = make({**usual, "name": options.name, "model_store": str(store)})

    def run(self) -> tuple[Tuned, dict[str, Any]]:
        """(what was found, a record of it for a JSON file)."""
        o = self._options
        began = time.monotonic()
        today = Candidate(
            self._usual.workers,
            self._usual.threads,
            self._usual.batch_size,
            self._usual.max_batch_delay,
        )
        gpus = defaults.gpus() if self._on_gpu else 0
        shares = bool(gpus) and self._usual.workers > defaults.WORKERS_PER_GPU * gpus
        given = tune.with_default(tune.candidates(self._cores, gpus, shares), today)
        tuned = tune.tune(given, self._measure, o.memory_mb, self._tell)
        confirmed = self._confirm(tuned, today)
        minutes = (time.monotonic() - began) / 60
        print(tune.text(tuned))
        for line in confirmed:
            print(line)
        print(f"{minutes:.1f} minutes")
        if tuned.best:
            print(f"\n{self._line(tuned.best)}")
            if o.apply:
                self._keep(tuned.best)
        return tuned, {
            "best": tuned.best.values if tuned.best else None,
            "reason": tuned.reason,
            "confirmed": confirmed,
            "minutes": round(minutes, 2),
            "candidates": [
                {
                    **entry.candidate.values,
                    "own_gpu_process": entry.candidate.own_process,
                    "rates": [[s.rate for s in stage] for stage in entry.samples],
                    "memory_mb": entry.memory_mb,
                    "left_out": entry.left_out,
                }
                for entry in tuned.entries
            ],
        }

    def _line(self, best: Candidate) -> str:
        name = "" if self._options.name == "fd1" else f" --name {self._options.name}"
        return best.line + name

    def _confirm(self, tuned: Tuned, today: Candidate) -> list[str]:
        """The best and today's settings once more, in turn, on fresh servers."""
        if tuned.best is None:
            return []
        rates: dict[Candidate, list[float]] = {tuned.best: [], today: []}
        self._tell(f"once more, {CONFIRM_SECONDS:g} s each: what was found and today's settings")
        for number in range(tune.ROUNDS):
            for candidate in list(rates)[:: 1 if number % 2 == 0 else -1]:
                rates[candidate].append(self._measure(candidate, CONFIRM_SECONDS).rate)
        shown = {c: "/".join(f"{r:.4g}" for r in found) for c, found in rates.items()}
        if tuned.best == today:
            return [f"once more: {shown[today]} requests/s; these are today's settings"]
        return [
            f"once more: {shown[tuned.best]} requests/s, today's settings ({today.name}) "
            f"{shown[today]}"
        ]

    def _measure(self, candidate: Candidate, seconds: float) -> Sample:
        """The highest rate within the limit, or the throughput where there is none."""
        try:
            return self._once(candidate, seconds)
        except KitError as e:
            self._tell(f"  {candidate.name}: {e}; once more")
        try:
            return self._once(candidate, seconds)
        except KitError as e:
            return Sample(0.0, why=str(e))

    def _once(self, candidate: Candidate, seconds: float) -> Sample:
        """The same; raises ``KitError`` where the server cannot be started or measured."""
        kind = TorchServe()
        window = seconds if self._options.limit is None else seconds * STEP
        with self._serving(candidate, window) as options:
            setup = kind.setup(options, self._bodies)
            mean = sum(map(len, self._bodies)) / len(self._bodies)
            with Fleet(setup.targets, setup.environment) as fleet:
                measurement = Measurement(options, setup, fleet, mean, kind.watch(options))
                return self._sample(measurement, candidate, seconds)

    def _sample(self, measurement: Measurement, candidate: Candidate, seconds: float) -> Sample:
        o = self._options
        callers = max(4, 2 * candidate.workers * candidate.batch)
        run = measurement.run(Load(concurrency=callers))
        memory = sum(run["worker_rss_mb"])
        if not run["succeeded"]:
            return Sample(0.0, memory, f"no right answer ({next(iter(run['errors']), 'none')})")
        if o.limit is None:
            return Sample(run["throughput"], memory)
        return self._within(o.limit, measurement, run["throughput"], seconds, memory)

    def _within(
        self, limit: Limit, measurement: Measurement, capacity: float, seconds: float, memory: float
    ) -> Sample:
        o = self._options

        def at(rate: float, whole: bool) -> dict[str, Any]:
            lasts = max(seconds * STEP, 20 / rate)
            arrivals = replace(
                o.at(rate, lasts),
                limit=(limit.share, limit.ms / 1e3),
                patience=min(o.timeout, 4 * limit.ms / 1e3 + 1),
            )
            measurement.settle()
            return {**measurement.run(Load(arrivals=arrivals)), "short": True}

        found = search.highest(at, limit, capacity, steps=STEPS, confirm=False)
        return Sample(found.rate, memory, "" if found.rate else found.why)

    @contextmanager
    def _serving(self, candidate: Candidate, seconds: float) -> Iterator[Options]:
        """A server with these settings; gives the options that ask it, with windows so long."""
        o = self._options
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpstest-tune-")))
            port, grpc_port = free_ports()
            settings = make({
                **{k: str(v) for k, v in self._usual.record().items() if k in LIMITS},
                **candidate.values, "name": o.name, "model_store": str(o.model_store),
                "queue": str(self._usual.queue), "port": str(port), "grpc_port": str(grpc_port),
                "run_dir": str(folder / "run"),
            })  # fmt: skip
            if candidate.own_process is not None:
                before = os.environ.get(OWN_VARIABLE)
                os.environ[OWN_VARIABLE] = str(int(candidate.own_process))
                stack.callback(_restore, before)
            state.prepare(settings.run_dir)
            server = servers.start(settings, [self._archive])
            stack.callback(servers.stop, server, 0)
            server.wait_ready(o.name)
            yield replace(
                o,
                modes=(SERVED,),
                duration=seconds,
                warmup=max(10, 2 * candidate.workers * candidate.batch),
                server=replace(
                    o.server,
                    url=f"http://127.0.0.1:{port}",
                    management_url=f"http://127.0.0.1:{port + 1}",
                    metrics_url=f"http://127.0.0.1:{port + 2}",
                    grpc_address=f"127.0.0.1:{grpc_port}",
                    token=None,
                    management_token=None,
                ),
            )

    def _keep(self, best: Candidate) -> None:
        path = defaults.kept_file(self._options.model_store, self._options.name)
        settings = {name: int(value) for name, value in best.values.items()}
        report.write_json(path, {"cores": cores(), "settings": settings})
        print(f"kept as run.sh's default for {self._options.name}: {path}")
        if best.own_process:
            print(f"but for {OWN_VARIABLE}=1, which is set where run.sh is started")

    def _tell(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(OWN_VARIABLE, None)
    else:
        os.environ[OWN_VARIABLE] = before


def free_ports() -> tuple[int, int]:
    """Free ports for HTTP (with its two successors) and gRPC (with its successor)."""
    found: list[int] = []
    with ExitStack() as held:
        for count in (3, 2):
            while True:
                probe = held.enter_context(socket.create_server(("127.0.0.1", 0)))
                first = probe.getsockname()[1]
                with contextlib.suppress(OSError, OverflowError):
                    for port in range(first + 1, first + count):
                        held.enter_context(socket.create_server(("127.0.0.1", port)))
                    found.append(first)
                    break
    return found[0], found[1]
