"""What ``python qpstest`` does, from the command line to the exit code."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from handlers.errors import KitError
from qpstest import inputs, machine, plot, report, stats, targets, vis, vis_masks
from qpstest.fleet import Fleet
from qpstest.measure import Measurement, PartlyMeasuredError
from qpstest.options import LABELS, SERVED, Options, parse
from qpstest.targets import Plan

OK, FAILED, INTERRUPTED = 0, 1, 130
BUSY = 0.5
"""Load average of one minute, for each core, above which figures are to be doubted."""


def main(arguments: list[str]) -> int:
    """Runs the tester; 0 done, 1 a mistake or a run without any right answer, 130 Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves nothing behind, as Ctrl-C
    try:
        return Session(parse(arguments)).run()
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


class Session:
    """All that one command measures.

    Args:
        options: the command line.
    """

    def __init__(self, options: Options):
        self._options = options
        self._machine = machine.describe()
        self._named = inputs.read(options.input)
        outputs = {"--json": options.json, "--plot": options.plot}
        if options.vis:
            outputs["--vis-out"] = options.vis_out
        for flag, path in outputs.items():
            if path:
                report.check_writable(flag, path)
        self._bodies = [body for _, body in self._named]
        self._runs: list[dict[str, Any]] = []
        self._answers: dict[int, list[bytes]] = {}

    def run(self) -> int:
        """Measures every mode, then reports; what was measured is reported in any case."""
        try:
            with ExitStack() as stack:
                plans = self._plans(stack)
                self._warn_if_busy()
                for _ in range(self._options.rounds):
                    for plan in plans:
                        self._measure(plan)
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

    def _plans(self, stack: ExitStack) -> list[Plan]:
        """Everything is looked at before anything is measured."""
        o = self._options
        plans = []
        served = targets.plan_served(o, self._bodies) if SERVED in o.modes else None
        local = [mode for mode in o.modes if mode != SERVED]
        if local:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qpstest-")))
            warning = targets.unpack_archive(o, folder)
            if warning:
                print(f"warning: {warning}", file=sys.stderr)
            plans = [
                plan
                for mode in local
                for plan in targets.plans_local(o, mode, folder, self._bodies)
            ]
        return [*plans, served] if served else plans

    def _warn_if_busy(self) -> None:
        load, cores = self._machine["load_average"], self._machine["cores"]
        if load and load[0] > BUSY * cores:
            text = f"the machine is busy (load average {load[0]} on {cores} cores)"
            print(f"warning: {text}: try --rounds 3, or measure later", file=sys.stderr)

    def _measure(self, plan: Plan) -> None:
        o = self._options
        mean = sum(map(len, self._bodies)) / len(self._bodies)
        with Fleet(plan.targets, plan.environment) as fleet:
            if o.vis and plan.mode not in self._answers:
                most = vis_masks.SCANS_SHOWN if o.volumes else vis.PICTURES_SHOWN
                count = min(most, len(self._bodies))
                self._answers[plan.mode] = [_right(fleet, plan.mode, i) for i in range(count)]
            if not (o.requests or o.duration):
                return
            measurement = Measurement(o, plan, fleet, mean)
            for concurrency in o.concurrency:
                run = measurement.run(concurrency)
                self._runs.append(run)
                if not run["succeeded"]:
                    return

    def _report(self, interrupted: bool = False) -> None:
        o = self._options
        self._runs = stats.median_rounds(self._runs)
        if self._runs or not self._answers:
            print(report.tables(self._runs))
        if o.json:
            report.write_json(o.json, self._figures(interrupted))
            print(f"figures: {o.json}")
        if interrupted:
            return
        if o.plot and self._runs:
            plot.plot(self._runs, o.plot)
            print(f"plot: {o.plot}")
        if self._answers:
            sheet = vis_masks.side_by_side if o.volumes else vis.side_by_side
            for line in sheet(self._named, self._answers, o.vis_out):
                print(line)

    def _figures(self, interrupted: bool) -> Mapping[str, Any]:
        return {
            "command": self._options.command,
            "machine": self._machine,
            "versions": machine.versions(),
            "inputs": [name for name, _ in self._named],
            "interrupted": interrupted,
            "runs": self._runs,
        }

    def _judge(self) -> int:
        for run in self._runs:
            if not run["succeeded"]:
                kind = max(run["errors"], key=run["errors"].__getitem__, default="no request")
                message = next(iter(run["error_messages"].get(kind, {})), "")
                print(
                    f"error: {LABELS[run['mode']]}, concurrency {run['concurrency']}: none of "
                    f"{run['requests']} requests succeeded; most: {kind}"
                    f"{f' ({message})' if message else ''}",
                    file=sys.stderr,
                )
                return FAILED
        return OK


def _right(fleet: Fleet, mode: int, number: int) -> bytes:
    reply = fleet.ask(number)
    if reply.kind:
        raise KitError(f"{LABELS[mode]}: input {number + 1} got {reply.kind}: {reply.message}")
    return reply.answer
