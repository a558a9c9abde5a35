"""One mode, one concurrency: warm up, run windows, put the figures together."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import psutil

from handlers.errors import KitError
from qpstest import server_metrics, stats
from qpstest.agent import resident_bytes
from qpstest.fleet import Fleet, WindowInterruptedError
from qpstest.load import Tally
from qpstest.options import LABELS, SERVED, Options
from qpstest.progress import ProgressLine
from qpstest.server_metrics import ModelStatus, Sample, ServerTimes
from qpstest.targets import Plan

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
        self._served = plan.mode == SERVED
        status = self._ask_status()
        self._workers = {w.pid for w in status.workers} if status else set()

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
            return self._report(concurrency, [warm], [note])
        before = self._scrape(settled=False)
        windows: list[Window] = []
        while not self._enough(windows):
            try:
                windows.append(self._window(concurrency, len(windows)))
            except WindowInterruptedError as e:
                if e.tally:
                    windows.append(Window(e.tally, max(0.0, e.tally.ended - e.started), []))
                raise PartlyMeasuredError(
                    self._report(concurrency, windows, ["interrupted"])
                ) from None
        refused = sum(w.tally.errors["overload"] for w in windows)
        return self._report(concurrency, windows, [], self._times(before, refused))

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
        self,
        concurrency: int,
        windows: list[Window],
        notes: list[str],
        times: ServerTimes | None = None,
    ) -> dict[str, Any]:
        """The report's entry: the last windows pooled."""
        o, plan = self._options, self._plan
        tally, seconds = Tally(), 0.0
        for window in windows[-stats.STABLE_WINDOWS :]:
            tally.merge(window.tally)
            seconds += window.seconds
        throughputs = _throughputs(windows)
        figures = stats.summarise(tally, seconds)
        requests = figures["requests"]
        memory_mb, replaced = self._memory_mb(windows[-1].memory if windows else [])
        if replaced:
            notes = [*notes, "a worker was replaced while this ran"]
        notes = [*plan.notes, *notes, *self._doubts(tally, seconds, throughputs)]
        stages: dict[str, float] = {}
        if times:
            stages = {"queue": times.queue} if times.queue is not None else {}
            stages.update(times.stages)
        batch = times.batch if times else None
        if tally.stage_items:
            batch = stats.rounded(tally.stage_items / tally.batches, 2) if tally.batches else None
            found = {s: v / tally.stage_items for s, v in tally.stages_ms.items()}
            stages = {s: round(v, 3) for s, v in found.items()}
        return {
            "mode": plan.mode,
            **self._runtime(),
            "concurrency": concurrency,
            **figures,
            "stages_ms": stages,
            "worker_rss_mb": memory_mb,
            "client_cpu_ms": stats.rounded(tally.cpu / requests * 1e3)
            if self._served and requests
            else None,
            "server_ms": times.inside if times else None,
            "items_per_batch": batch,
            "model": o.name,
            "processes": plan.processes,
            "batch": plan.batch,
            **{k: v for k, v in plan.about.items() if k != "summary_runtime"},
            "input_bytes_mean": round(self._input_bytes),
            "windows": [stats.rounded(t) for t in throughputs],
            "stable": stats.is_stable(throughputs) if o.stable else None,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "notes": notes,
        }

    def _runtime(self) -> dict[str, Any]:
        """Which runtime answers, from the answers themselves where they say so."""
        found: Mapping[str, Any] = self._fleet.infos[0]
        if self._served:
            found = {}
            with contextlib.suppress(ValueError, AttributeError):
                answer = json.loads(self._fleet.ask(0).answer or b"{}")
                found = _normal(answer.get("runtime"))
            found = found or _normal(self._plan.about["summary_runtime"])
        entry = {name: found.get(name) for name in ("runtime", "precision", "fallback")}
        if "torch_imported" in found:
            entry["torch_imported"] = found["torch_imported"]
        return entry

    def _doubts(self, tally: Tally, seconds: float, throughputs: list[float]) -> list[str]:
        notes = []
        if self._served and seconds > 0:
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

    def _ask_status(self) -> ModelStatus | None:
        if not self._served:
            return None
        server = self._options.server
        with contextlib.suppress(KitError):
            return server_metrics.model_status(
                server.management_url, self._options.name, server.management_token
            )
        return None

    def _memory_mb(self, memory: list[int]) -> tuple[list[float], bool]:
        """(resident MB of 10^6 bytes of each process that runs the model, whether one is new)."""
        replaced = False
        if self._served:
            status = self._ask_status()
            workers = {w.pid for w in status.workers} if status else set()
            memory = [worker_bytes(pid) for pid in sorted(workers)]
            replaced = bool(workers) and workers != self._workers
            self._workers = workers
        return [round(size / 1e6, 1) for size in memory if size], replaced

    def _scrape(self, settled: bool) -> dict[Sample, float] | None:
        if not self._served:
            return None
        with contextlib.suppress(KitError):
            take = server_metrics.scrape_settled if settled else server_metrics.scrape
            return take(self._options.server.metrics_url)
        return None

    def _times(self, before: dict[Sample, float] | None, refused: int) -> ServerTimes | None:
        after = self._scrape(settled=True)
        if before is None or after is None:
            return None
        return server_metrics.between(before, after, self._options.name, refused)


def worker_bytes(pid: int) -> int:
    """Resident memory of a TorchServe worker of this machine; 0 where the id is another's."""
    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return 0
    return resident_bytes(pid) if "model_service_worker" in command else 0


def _normal(found: Any) -> dict[str, Any]:
    """{"runtime", "precision", "fallback"} of an answer's or a summary's "runtime" object."""
    if not isinstance(found, dict):
        return {}
    return {
        "runtime": found.get("name"),
        "precision": found.get("precision"),
        "fallback": found.get("fallback"),
    }


def _throughputs(windows: list[Window]) -> list[float]:
    return [len(w.tally.latencies) / w.seconds if w.seconds else 0.0 for w in windows]
