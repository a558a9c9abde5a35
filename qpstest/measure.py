"""One mode, one load: warm up, run windows, put the figures together."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, NamedTuple

from qpstest import ceiling, processes, stats
from qpstest.arrivals import Arrivals, Load
from qpstest.fleet import Fleet, WindowInterruptedError
from qpstest.http_api import HttpTarget, split_url
from qpstest.load import Tally
from qpstest.options import LABELS, Options
from qpstest.progress import ProgressLine
from qpstest.targets import Setup
from qpstest.watch import Observed, Watch

BUSY_CLIENT = 0.7
"""Of one core, for each client process: above it the client may be what limits the throughput."""
MANY_LATE = 0.01
FEW_LATE = 5
"""Share of an open loop's requests, and their number, that may be late without a word."""
CLOCK_JUMP = 0.5
"""Seconds."""


class PartlyMeasuredError(Exception):
    """Ctrl-C during a window; ``run`` holds what was measured until then."""

    def __init__(self, run: dict[str, Any]):
        super().__init__("interrupted")
        self.run = run


class Window(NamedTuple):
    """What one window measured: requests, length in seconds, resident bytes of each process."""

    tally: Tally
    seconds: float
    memory: list[int]


class Measurement:
    """Measures one mode.

    Args:
        options: the command line.
        setup: of the mode.
        fleet: its processes.
        input_bytes: mean length of a request's body.
        watch: looks at the server; None for local modes.
    """

    def __init__(
        self,
        options: Options,
        setup: Setup,
        fleet: Fleet,
        input_bytes: float,
        watch: Watch | None = None,
    ):
        self._options = options
        self._setup = setup
        self._fleet = fleet
        self._input_bytes = input_bytes
        self._watch = watch
        self._gpu_server_seconds = 0.0

    def run(self, load: Load) -> dict[str, Any]:
        """The report's entry for one load; raises ``PartlyMeasuredError`` on Ctrl-C."""
        o = self._options
        callers = load.concurrency or self._setup.processes or 2
        warmup = max(10, 2 * load.concurrency) if o.warmup is None else o.warmup
        try:
            warm = Window(*self._fleet.run(callers, warmup))
        except WindowInterruptedError:
            raise KeyboardInterrupt from None
        if warmup and not warm.tally.latencies:
            note = f"all {warmup} warm-up requests failed: nothing was measured"
            seen = self._watch.look() if self._watch else Observed()
            return self._report(load, [warm], [note], seen)
        if self._watch:
            self._watch.begin()
        else:
            self._gpu_server_seconds = processes.gpu_server_seconds(self._fleet.parent)
        windows: list[Window] = []
        clocks = time.time() - time.monotonic()
        while not self._enough(windows):
            try:
                windows.append(self._window(load, len(windows)))
            except WindowInterruptedError as e:
                if e.tally:
                    windows.append(Window(e.tally, max(0.0, e.tally.ended - e.started), []))
                entry = self._report(load, windows, ["interrupted"], Observed())
                raise PartlyMeasuredError(entry) from None
        notes = []
        jump = time.time() - time.monotonic() - clocks
        if abs(jump) > CLOCK_JUMP:
            notes.append(
                f"the system's clock was set by {jump:+.1f} s while this ran: latencies are of "
                "another clock and stay right, dates do not"
            )
        return self._report(load, windows, notes, self._observe(windows))

    def settle(self) -> None:
        """Waits until the server has worked off what an earlier window left in its queue."""
        self._fleet.ask(0)

    def _observe(self, windows: list[Window]) -> Observed:
        """What the processes that run the model show, ours or the server's."""
        if self._watch:
            refused = sum(w.tally.errors["overload"] for w in windows)
            return self._watch.end(refused, sum(w.tally.sent for w in windows))
        tally = _pool(windows)[0]
        items = tally.stage_items
        shared = processes.gpu_server_seconds(self._fleet.parent) - self._gpu_server_seconds
        memory = [*windows[-1].memory, *processes.gpu_server_bytes({self._fleet.parent})]
        return Observed(
            stages_ms={s: round(v / items, 3) for s, v in tally.stages_ms.items() if items},
            items_per_batch=stats.rounded(items / tally.batches, 2) if tally.batches else None,
            rss_mb=tuple(round(size / 1e6, 1) for size in memory),
            cpu_ms=processes.per_request(0.0, tally.cpu + max(0.0, shared), tally.sent),
        )

    def _enough(self, windows: list[Window]) -> bool:
        if not windows:
            return False
        if not self._options.stable or not windows[-1].tally.latencies:
            return True
        return len(windows) >= self._options.max_windows or stats.is_stable(*self._judged(windows))

    def _judged(self, windows: list[Window]) -> tuple[list[float], list[float]]:
        """The windows' throughputs, and their latencies: the limit's percentile, else the mean."""
        name = self._options.limit.percentile if self._options.limit else "mean"
        latencies = [stats.latency_ms(w.tally.latencies)[name] or 0.0 for w in windows]
        return _throughputs(windows), latencies

    def _window(self, load: Load, done: int) -> Window:
        o = self._options
        label = f"{LABELS[self._setup.mode]}, {load.name}"
        if o.stable:
            label += f", window {done + 1}"
        requests, seconds = o.requests, o.duration
        if load.arrivals:
            requests, seconds = load.arrivals.total, 0.0
        line = ProgressLine(label, requests, seconds)
        try:
            if load.arrivals:
                # Each window has other Poisson arrivals.
                arrivals = replace(load.arrivals, seed=load.arrivals.seed + done)
                found = self._fleet.arrive(arrivals, o.connections, o.timeout, line.show)
            else:
                lead = load.concurrency
                found = self._fleet.run(lead, o.requests, o.duration, lead, line.show)
            return Window(*found)
        finally:
            line.clear()

    def _report(
        self, load: Load, windows: list[Window], notes: list[str], seen: Observed
    ) -> dict[str, Any]:
        """The report's entry: the last windows pooled."""
        o, setup = self._options, self._setup
        tally, seconds = _pool(windows)
        throughputs, latencies = self._judged(windows)
        if seen.replaced:
            notes = [*notes, "a worker was replaced while this ran"]
        if seen.restarted:
            notes = [*notes, "the server was restarted since the measurement before this one"]
        arrivals = load.arrivals
        return {
            "mode": setup.mode,
            **self._runtime(),
            "concurrency": load.concurrency or None,
            "rate": stats.rounded(arrivals.rate) if arrivals else None,
            "arrivals": arrivals.kind if arrivals else None,
            "schedule": _schedule(arrivals) if arrivals else None,
            "offered": self._offered(arrivals, tally, windows) if arrivals else None,
            **stats.summarise(tally, seconds),
            "stages_ms": seen.stages_ms,
            "server_counts": seen.counts,
            "worker_rss_mb": list(seen.rss_mb),
            "worker_cpu_ms": seen.cpu_ms,
            "front_cpu_ms": seen.front_cpu_ms,
            "client_cpu_ms": processes.per_request(0.0, tally.cpu, tally.sent)
            if self._watch
            else None,
            "server_ms": seen.server_ms,
            "items_per_batch": seen.items_per_batch,
            "model": o.name,
            "server": o.server.kind if self._watch else None,
            "processes": setup.processes,
            "batch": setup.batch,
            **setup.about,
            "input_bytes_mean": round(self._input_bytes),
            "windows": [stats.rounded(t) for t in throughputs],
            "windows_ms": [stats.rounded(ms) for ms in latencies],
            "stable": stats.is_stable(throughputs, latencies) if o.stable else None,
            "date": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "notes": [*setup.notes, *notes, *self._doubts(load, tally, seconds, windows)],
        }

    def _offered(self, arrivals: Arrivals, tally: Tally, windows: list[Window]) -> float | None:
        """The rate that was really due: a few seconds of Poisson arrivals are more or less."""
        lasted = arrivals.seconds * min(len(windows), stats.STABLE_WINDOWS)
        due = len(tally.lateness) + tally.unsent
        return stats.rounded(due / lasted if lasted and not tally.cut else arrivals.rate)

    def _runtime(self) -> dict[str, Any]:
        """Which runtime answers."""
        if self._watch:
            return self._watch.runtime(self._fleet.ask(0).answer)
        return dict(self._fleet.infos[0])

    def _doubts(self, load: Load, tally: Tally, seconds: float, windows: list[Window]) -> list[str]:
        notes = []
        if self._watch and seconds > 0:
            share = tally.cpu / seconds / self._options.clients
            if share > BUSY_CLIENT:
                notes.append(
                    f"the load-making process used {share:.0%} of a core and may be the limit: "
                    "try more --clients"
                )
        if load.arrivals:
            notes.extend(self._lateness(load.arrivals, tally))
        elif gap := stats.standstill(tally):
            notes.append(
                f"no answer came for up to {gap.longest:.2f} s, {gap.times} times, "
                f"{gap.share:.0%} of the time: a closed loop waits meanwhile, so its percentiles "
                "leave out the requests that would have come; measure with --rate"
            )
        if self._options.stable and windows and not self._is_stable(windows):
            throughputs, latencies = self._judged(windows)
            last = slice(-stats.STABLE_WINDOWS, None)
            notes.append(
                f"not stable after {len(windows)} windows (spread of throughput "
                f"{stats.spread(throughputs[last]):.0%}, of latency "
                f"{stats.spread(latencies[last]):.0%})"
            )
        return notes

    def _is_stable(self, windows: list[Window]) -> bool:
        return stats.is_stable(*self._judged(windows))

    def _lateness(self, arrivals: Arrivals, tally: Tally) -> list[str]:
        """What is to be said of requests that were not sent when they were due."""
        notes = []
        if tally.waited:
            notes.append(
                f"up to {tally.waited} requests at once waited for one of "
                f"{self._options.connections} connections (--connections)"
            )
        late = tally.late + tally.unsent
        if late > max(FEW_LATE, MANY_LATE * len(tally.lateness)):
            line = f"{late} of {len(tally.lateness)} requests were sent more than 5 ms late"
            target = self._setup.targets[0]
            if isinstance(target, HttpTarget) and not split_url(target.url)[0]:
                own = ceiling.measure(target) * self._options.clients
                line += (
                    f": with {self._options.clients} --clients this generator can send "
                    f"{own:.0f}/s of them to a server that does nothing"
                )
                if own < 1.2 * arrivals.rate:
                    line += f", so the rate of {arrivals.rate:g}/s is above its ceiling"
            notes.append(line)
        return notes


def _schedule(arrivals: Arrivals) -> dict[str, Any]:
    """What brings the same arrivals about again."""
    return {"seed": arrivals.seed, "seconds": arrivals.seconds, "count": arrivals.count}


def _pool(windows: list[Window]) -> tuple[Tally, float]:
    """The last windows' requests together, and how many seconds they took."""
    total, seconds = Tally(), 0.0
    for window in windows[-stats.STABLE_WINDOWS :]:
        total.merge(window.tally)
        seconds += window.seconds
    return total, seconds


def _throughputs(windows: list[Window]) -> list[float]:
    return [len(w.tally.latencies) / w.seconds if w.seconds else 0.0 for w in windows]
