"""One mode, one concurrency: warm up, run windows, put the figures together."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, NamedTuple

from qpstest import processes, stats
from qpstest.fleet import Fleet, WindowInterruptedError
from qpstest.load import Tally
from qpstest.options import LABELS, SERVED, Options
from qpstest.progress import ProgressLine
from qpstest.targets import Plan
from qpstest.watch import Observed, ServerWatch

BUSY_CLIENT = 0.7
"""Of one core, for each client process: above it the client may be what limits the throughput."""


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
        plan: the mode's plan.
        fleet: its processes.
        input_bytes: mean length of a request's body.
    """

    def __init__(self, options: Options, plan: Plan, fleet: Fleet, input_bytes: float):
        self._options = options
        self._plan = plan
        self._fleet = fleet
        self._input_bytes = input_bytes
        self._watch = None
        self._hub_seconds = 0.0
        if plan.mode == SERVED:
            self._watch = ServerWatch(options.server, options.name)

    def run(self, concurrency: int) -> dict[str, Any]:
        """The report's entry for one concurrency; raises ``PartlyMeasuredError`` on Ctrl-C."""
        o = self._options
        warmup = max(10, 2 * concurrency) if o.warmup is None else o.warmup
        try:
            warm = Window(*self._fleet.run(concurrency, warmup))
        except WindowInterruptedError:
            raise KeyboardInterrupt from None
        if warmup and not warm.tally.latencies:
            note = f"all {warmup} warm-up requests failed: nothing was measured"
            seen = self._watch.look() if self._watch else Observed()
            return self._report(concurrency, [warm], [note], seen)
        if self._watch:
            self._watch.begin()
        else:
            self._hub_seconds = processes.hub_seconds(self._fleet.parent)
        windows: list[Window] = []
        while not self._enough(windows):
            try:
                windows.append(self._window(concurrency, len(windows)))
            except WindowInterruptedError as e:
                if e.tally:
                    windows.append(Window(e.tally, max(0.0, e.tally.ended - e.started), []))
                entry = self._report(concurrency, windows, ["interrupted"], Observed())
                raise PartlyMeasuredError(entry) from None
        return self._report(concurrency, windows, [], self._observe(windows))

    def _observe(self, windows: list[Window]) -> Observed:
        """What the processes that run the model show, ours or the server's."""
        if self._watch:
            refused = sum(w.tally.errors["overload"] for w in windows)
            return self._watch.end(refused, sum(w.tally.sent for w in windows))
        tally = _pool(windows)[0]
        items = tally.stage_items
        shared = processes.hub_seconds(self._fleet.parent) - self._hub_seconds
        memory = [*windows[-1].memory, *processes.hub_bytes({self._fleet.parent})]
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
        return len(windows) >= self._options.max_windows or stats.is_stable(_throughputs(windows))

    def _window(self, concurrency: int, done: int) -> Window:
        o = self._options
        label = f"{LABELS[self._plan.mode]}, concurrency {concurrency}"
        if o.stable:
            label += f", window {done + 1}"
        line = ProgressLine(label, o.requests, o.duration)
        try:
            return Window(
                *self._fleet.run(concurrency, o.requests, o.duration, concurrency, line.show)
            )
        finally:
            line.clear()

    def _report(
        self, concurrency: int, windows: list[Window], notes: list[str], seen: Observed
    ) -> dict[str, Any]:
        """The report's entry: the last windows pooled."""
        o, plan = self._options, self._plan
        tally, seconds = _pool(windows)
        throughputs = _throughputs(windows)
        if seen.replaced:
            notes = [*notes, "a worker was replaced while this ran"]
        return {
            "mode": plan.mode,
            **self._runtime(),
            "concurrency": concurrency,
            **stats.summarise(tally, seconds),
            "stages_ms": seen.stages_ms,
            "worker_rss_mb": list(seen.rss_mb),
            "worker_cpu_ms": seen.cpu_ms,
            "front_cpu_ms": seen.front_cpu_ms,
            "client_cpu_ms": processes.per_request(0.0, tally.cpu, tally.sent)
            if self._watch
            else None,
            "server_ms": seen.server_ms,
            "items_per_batch": seen.items_per_batch,
            "model": o.name,
            "processes": plan.processes,
            "batch": plan.batch,
            **plan.about,
            "input_bytes_mean": round(self._input_bytes),
            "windows": [stats.rounded(t) for t in throughputs],
            "stable": stats.is_stable(throughputs) if o.stable else None,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "notes": [*plan.notes, *notes, *self._doubts(tally, seconds, throughputs)],
        }

    def _runtime(self) -> dict[str, Any]:
        """Which runtime answers."""
        if self._watch:
            return self._watch.runtime(self._fleet.ask(0).answer)
        return dict(self._fleet.infos[0])

    def _doubts(self, tally: Tally, seconds: float, throughputs: list[float]) -> list[str]:
        notes = []
        if self._watch and seconds > 0:
            share = tally.cpu / seconds / self._options.clients
            if share > BUSY_CLIENT:
                notes.append(
                    f"the load-making process used {share:.0%} of a core and may be the limit: "
                    "try more --clients"
                )
        if self._options.stable and throughputs and not stats.is_stable(throughputs):
            off = stats.spread(throughputs[-stats.STABLE_WINDOWS :])
            notes.append(f"not stable after {len(throughputs)} windows (spread {off:.0%})")
        return notes


def _pool(windows: list[Window]) -> tuple[Tally, float]:
    """The last windows' requests together, and how many seconds they took."""
    total, seconds = Tally(), 0.0
    for window in windows[-stats.STABLE_WINDOWS :]:
        total.merge(window.tally)
        seconds += window.seconds
    return total, seconds


def _throughputs(windows: list[Window]) -> list[float]:
    return [len(w.tally.latencies) / w.seconds if w.seconds else 0.0 for w in windows]
