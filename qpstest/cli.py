"""What ``python qpstest`` does, from the command line to the exit code."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest import inputs, machine, perf_report, plot, report, search, servers, stats, targets
from qpstest import tasks as tasks_of
from qpstest.arrivals import Load
from qpstest.flags import parser
from qpstest.fleet import Fleet
from qpstest.measure import Measurement, PartlyMeasuredError
from qpstest.options import (
    LABELS,
    OPEN_SECONDS,
    SERVED,
    Limit,
    Options,
    Server,
    latency_limit,
    rates_of,
    settle,
)
from qpstest.targets import Setup
from qpstest.watch import Watch
from repack.tasks.load_test import LoadTest

OK, FAILED, WORSE, INTERRUPTED = 0, 1, 3, 130
BUSY = 0.5
"""Load average of one minute, for each core, above which figures are to be doubted."""
SEARCH_SECONDS = 5.0
"""Least length of a search's runs."""
SEARCH_REQUESTS = 100
"""Least number of their requests, as far as ``SEARCH_LONGEST`` allows."""
SEARCH_LONGEST = 30.0


def main(arguments: list[str]) -> int:
    """Runs the tester; 0 done, 1 a mistake or a run without any right answer, 3 worse than what it
    was compared with, 130 Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind, as Ctrl-C
    try:
        return _run(parser().parse_args(arguments), arguments)
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return FAILED
    except (KeyboardInterrupt, PartlyMeasuredError):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(given: argparse.Namespace, arguments: list[str]) -> int:
    if given.compare:
        return _compare(given)
    if given.merge:
        return _merge(given)
    if given.plan:
        return _plan(given)
    options = settle(given, arguments, find_task)
    return _tune(options) if options.tune else Session(options).run()


def find_task(given: argparse.Namespace, server: Server) -> LoadTest:
    """The hooks of the model's task: the server names it, or the archive, or else the inputs do."""
    named = None
    if given.mode not in ("1", "2"):
        named = servers.KINDS[server.kind].task(server, given.name)
    if named is None:
        named = tasks_of.of_archive(given.model_store / f"{given.name}.mar")
    return tasks_of.choose(named, given.input)


def _compare(given: argparse.Namespace) -> int:
    from qpstest import compare

    if not 0 <= given.tolerance < 100:
        raise KitError(
            f"--tolerance {given.tolerance:g}: percent from 0 to below 100 were expected"
        )
    before, after = (compare.load(path) for path in given.compare)
    text, worse = compare.compare(before, after, given.tolerance)
    print(text)
    return WORSE if worse else OK


def _merge(given: argparse.Namespace) -> int:
    from qpstest import compare

    runs = compare.merge([compare.load(path) for path in given.merge])
    _show(runs, given.report, None)
    if given.json:
        report.write_json(given.json, {"command": "python qpstest --merge", "runs": runs})
    return OK


def _plan(given: argparse.Namespace) -> int:
    from qpstest import capacity, compare

    if not 0 <= given.headroom < 100:
        raise KitError(f"--headroom {given.headroom:g}: percent from 0 to below 100 were expected")
    rates = rates_of(given.rate or "")
    if len(rates) != 1:
        raise KitError("--plan: one --rate was expected, in requests per second of all machines")
    kind = given.arrivals or "poisson"
    if kind not in ("constant", "poisson"):
        raise KitError(f"--plan: --arrivals constant or poisson was expected, {kind}")
    limit = latency_limit(given.latency_limit) if given.latency_limit else None
    runs = [run for path in given.plan for run in compare.load(path)]
    if not runs:
        raise KitError("--plan: the files hold no runs")
    found = capacity.plan(runs, rates[0], limit, given.headroom / 100, kind, given.seed)
    print(capacity.page(found))
    if given.json:
        report.check_writable("--json", given.json)
        report.write_json(given.json, capacity.record(found))
    return OK if found.machines else FAILED


def _tune(options: Options) -> int:
    from qpstest.tune_server import Tuning

    if options.server.kind != "torchserve":
        raise KitError(f"--tune starts a TorchServe of its own: --server {options.server.kind}")
    if options.json:
        report.check_writable("--json", options.json)
    named, broken = inputs.whole(inputs.read(options.input, options.task), options.task)
    for line in broken:
        print(f"warning: --input: {line}", file=sys.stderr)
    tuned, record = Tuning(options, [body for _, body in named]).run()
    if options.json:
        report.write_json(options.json, {
            "command": options.command, "machine": machine.describe(),
            "versions": machine.versions(), "tuned": record,
        })  # fmt: skip
        print(f"figures: {options.json}")
    return OK if tuned.best else FAILED


def _show(runs: list[dict[str, Any]], how: str, limit: Limit | None) -> None:
    if how == "perf":
        print(perf_report.text(runs, limit.percentile if limit else "p95"))
    else:
        print(report.tables(runs))


class Session:
    """All that one command measures.

    Args:
        options: the command line.
    """

    def __init__(self, options: Options):
        self._options = options
        self._machine = machine.describe()
        self._named, broken = inputs.whole(inputs.read(options.input, options.task), options.task)
        for line in broken:
            print(f"warning: --input: {line}", file=sys.stderr)
        outputs = {"--json": options.json, "--plot": options.plot, "--csv": options.csv}
        if options.vis:
            outputs["--vis-out"] = options.vis_out
        for flag, path in outputs.items():
            if path:
                report.check_writable(flag, path)
        self._bodies = [body for _, body in self._named]
        self._runs: list[dict[str, Any]] = []
        self._tried: list[dict[str, Any]] = []
        self._found: list[str] = []
        self._unmet = False
        self._answers: dict[int, list[bytes]] = {}
        self._watch: Watch | None = None

    def run(self) -> int:
        """Measures every mode, then reports; what was measured is reported in any case."""
        try:
            with ExitStack() as stack:
                setups = self._setups(stack)
                self._warn_if_busy()
                for _ in range(self._options.rounds):
                    for setup in setups:
                        self._measure(setup)
        except PartlyMeasuredError as e:
            self._runs.append(e.run)
            self._report(interrupted=True)
            return INTERRUPTED
        except KeyboardInterrupt:
            self._report(interrupted=True)
            return INTERRUPTED
        except BaseException:
            if self._runs:
                self._report(interrupted=True)
            raise
        self._report()
        return self._judge()

    def _setups(self, stack: ExitStack) -> list[Setup]:
        """Everything is looked at before anything is measured."""
        o = self._options
        setups = []
        served = None
        if SERVED in o.modes:
            kind = servers.KINDS[o.server.kind]
            served = kind.setup(o, self._bodies)
            self._watch = kind.watch(o)
        local = [mode for mode in o.modes if mode != SERVED]
        if local:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpstest-")))
            warning = targets.unpack_archive(o, folder)
            if warning:
                print(f"warning: {warning}", file=sys.stderr)
            setups = [
                setup
                for mode in local
                for setup in targets.local_setups(o, mode, folder, self._bodies)
            ]
        return [*setups, served] if served else setups

    def _warn_if_busy(self) -> None:
        load, cores = self._machine["load_average"], self._machine["cores"]
        if load and load[0] > BUSY * cores:
            text = f"the machine is busy (load average {load[0]} on {cores} cores)"
            print(f"warning: {text}: try --rounds 3, or measure later", file=sys.stderr)

    def _measure(self, setup: Setup) -> None:
        o = self._options
        mean = sum(map(len, self._bodies)) / len(self._bodies)
        with Fleet(setup.targets, setup.environment) as fleet:
            if o.vis and setup.mode not in self._answers:
                count = min(o.task.drawn, len(self._bodies))
                self._answers[setup.mode] = [_right(fleet, setup.mode, i) for i in range(count)]
            if not (o.requests or o.duration):
                return
            watch = self._watch if setup.mode == SERVED else None
            measurement = Measurement(o, setup, fleet, mean, watch)
            if o.limit and (o.rate_range or not o.rates):
                self._search(measurement, setup, o.limit)
                return
            for load in o.loads:
                run = measurement.run(load)
                self._runs.append(run)
                if not run["succeeded"]:
                    return

    def _search(self, measurement: Measurement, setup: Setup, limit: Limit) -> None:
        """The highest rate within the limit, and every rate that was tried."""
        o = self._options
        first = measurement.run(Load(concurrency=2 * (setup.processes or 1) * (setup.batch or 1)))
        self._tried.append(first)

        def at(rate: float, whole: bool) -> dict[str, Any]:
            seconds = max(SEARCH_SECONDS, min(SEARCH_REQUESTS / rate, SEARCH_LONGEST))
            if whole or o.duration != OPEN_SECONDS:
                seconds = max(seconds, o.duration)
            arrivals = replace(
                o.at(rate, seconds),
                count=0,
                limit=None if whole else (limit.share, limit.ms / 1e3),
                patience=min(o.timeout, 4 * limit.ms / 1e3 + 1),
            )
            measurement.settle()
            run = measurement.run(Load(arrivals=arrivals))
            run["short"] = seconds * rate < 20
            self._tried.append(run)
            wrong = search.verdict(run, limit)
            print(f"{rate:.4g}/s: {wrong or 'within the limit'}", file=sys.stderr)
            return run

        found = search.highest(at, limit, first["throughput"], o.rate_range)
        self._runs.append(found.run)
        mode = LABELS[setup.mode]
        if found.rate:
            self._found.append(
                f"{mode}: {found.rate:.4g} requests/s are the most within {limit.name} ms; "
                f"{found.why}"
            )
            return
        self._unmet = True
        self._found.append(
            f"{mode}: no rate meets {limit.name} ms; the closest was "
            f"{found.run['rate']:.4g}/s with "
            f"{found.run['latency_ms'][limit.percentile] or 0:.4g} ms: {found.why}"
        )

    def _report(self, interrupted: bool = False) -> None:
        o = self._options
        self._runs = stats.median_rounds(self._runs)
        if self._runs or not self._answers:
            _show(self._runs, o.report, o.limit)
        for line in self._found:
            print(line)
        if o.json:
            report.write_json(o.json, self._figures(interrupted))
            print(f"figures: {o.json}")
        if o.csv:
            report.write_text(o.csv, perf_report.as_csv(self._runs))
            print(f"table: {o.csv}")
        if interrupted:
            return
        if o.plot and self._runs:
            opened = {run["rate"]: run for run in self._tried if run["rate"]}
            plot.plot(list(opened.values()) or self._runs, o.plot, o.limit)
            print(f"plot: {o.plot}")
        if self._answers:
            named = {LABELS[mode]: self._answers[mode] for mode in sorted(self._answers)}
            for line in o.task.side_by_side(self._named, named, o.vis_out):
                print(line)

    def _figures(self, interrupted: bool) -> Mapping[str, Any]:
        return {
            "command": self._options.command,
            "machine": self._machine,
            "versions": machine.versions(),
            "inputs": [name for name, _ in self._named],
            "limit": self._options.limit.name if self._options.limit else None,
            "found": self._found,
            "interrupted": interrupted,
            "runs": self._runs,
            "tried": self._tried,
        }

    def _judge(self) -> int:
        for run in self._runs:
            if not run["succeeded"]:
                kind = max(run["errors"], key=run["errors"].__getitem__, default="no request")
                message = next(iter(run["error_messages"].get(kind, {})), "")
                print(
                    f"error: {LABELS[run['mode']]}, {report.load_of(run)}: none of "
                    f"{run['requests']} requests succeeded; most: {kind}"
                    f"{f' ({message})' if message else ''}",
                    file=sys.stderr,
                )
                return FAILED
        return FAILED if self._unmet else OK


def _right(fleet: Fleet, mode: int, number: int) -> bytes:
    reply = fleet.ask(number)
    if reply.kind:
        raise KitError(f"{LABELS[mode]}: input {number + 1} got {reply.kind}: {reply.message}")
    return reply.answer
