"""How many machines a rate takes: a plan from closed loops that were measured on one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import KitError
from qpstest import histograms
from qpstest.arrivals import Arrivals
from qpstest.options import LABELS, SERVED, Limit
from qpstest.queueing import Machine, Simulated, simulate
from qpstest.report import table
from qpstest.stats import spread

Run = Mapping[str, Any]
REQUESTS = 20_000
"""Simulated requests per machine."""
CHECKS = 10
"""Simulations with other work for the same arrivals, when held against a measurement."""
PERCENTILES = ("p50", "p95", "p99")
MOST_MACHINES = 10_000
LEAST_WORK = 0.05
"""Of a request's latency alone, the least that is taken to be work in a worker."""


@dataclass(frozen=True)
class Row:
    """So many machines: what each of them gets, and what comes out of it."""

    machines: int
    each: float
    found: Simulated
    with_headroom: Simulated


def calibrate(runs: Sequence[Run]) -> Machine:
    """The machine that closed loops were measured on.

    With c callers and no more than workers, a request takes ``delay`` + its work at the speed of c
    busy workers; with more callers, all workers are busy and the throughput says how long each is
    with a request. What a request took beyond that is the delay.

    Args:
        runs: of one mode, with the same workers and batch; concurrency 1 has to be among them,
            and one at which all workers are busy.

    Raises:
        KitError: what is missing, and the flags that measure it.
    """
    closed = {run["concurrency"]: run for run in runs if run["concurrency"] and run["throughput"]}
    workers = max((run.get("processes") or 1 for run in closed.values()), default=1)
    size = max((run.get("batch") or 1 for run in closed.values()), default=1)
    wanted = sorted({*range(1, workers + 1), 2 * workers * size})
    command = f"measure with --concurrency {','.join(map(str, wanted))}"
    if 1 not in closed or not closed[1].get("histogram"):
        raise KitError(f"--plan: the files hold no closed loop at concurrency 1: {command}")
    full = [run for c, run in closed.items() if c > workers]
    if not full:
        raise KitError(f"--plan: the files hold none with all {workers} workers busy: {command}")
    wait = (closed[1].get("max_batch_delay_ms") or 0) / 1e3 if size > 1 else 0.0
    alone = max(_latency_at(1, closed) - wait, 1e-6)
    if size == 1:
        outside = _latency_at(workers, closed) - workers / max(run["throughput"] for run in full)
    else:
        stages = closed[1]["stages_ms"]
        outside = alone - sum(v or 0.0 for s, v in stages.items() if s != "queue") / 1e3
    delay = min(max(outside, 0.0), alone * (1 - LEAST_WORK))
    work = alone - delay
    speeds = [
        work / max(_latency_at(j, closed) - wait - delay, 1e-9) for j in range(1, workers + 1)
    ]
    values, counts = histograms.values(histograms.merge([closed[1]["histogram"]]))
    return Machine(
        work=[max(value - wait - delay, alone * LEAST_WORK) for value in values],
        weights=[float(count) for count in counts],
        delay=delay,
        speeds=speeds,
        batches=_batches(full, size, workers, speeds[-1] / work),
        batch_wait=wait,
    )


def _latency_at(concurrency: int, closed: Mapping[int, Run]) -> float:
    """Mean latency in seconds at a concurrency, interpolated between those that were measured."""
    known = sorted(closed)
    below = max(c for c in known if c <= concurrency)
    above = min((c for c in known if c >= concurrency), default=below)
    low, high = (closed[c]["latency_ms"]["mean"] / 1e3 for c in (below, above))
    if below == above:
        return float(low)
    return float(low + (high - low) * (concurrency - below) / (above - below))


def _batches(full: Sequence[Run], size: int, workers: int, relative: float) -> tuple[float, ...]:
    """The work of a batch of 1, 2, ... against one request's, from runs with full queues.

    Args:
        relative: requests' work that a busy worker does in a second.
    """
    points = {1.0: 1.0}
    for run in full:
        items = float(run.get("items_per_batch") or 1.0)
        if items > 1.2:
            points[items] = items * workers / run["throughput"] * relative
    known = sorted(points)
    costs = []
    for n in range(1, size + 1):
        below = max(p for p in known if p <= n)
        above = min((p for p in known if p >= n), default=below)
        part = (n - below) / (above - below) if above > below else 0.0
        cost = points[below] + part * (points[above] - points[below])
        costs.append(cost if above >= n else cost * n / below)
    return tuple(costs)


@dataclass(frozen=True)
class Check:
    """A measured open loop and its simulation.

    Attributes:
        measured: the run.
        simulated: all simulations of its arrivals together, each with other work.
        apart: how far the p95 of these are apart, against their middle.
    """

    measured: Run
    simulated: Simulated
    apart: float

    def __str__(self) -> str:
        run = self.measured
        parts = (
            f"{name} {run['latency_ms'][name]:.4g} and {_ms(self.simulated, name)}"
            for name in PERCENTILES
        )
        return (
            f"{run['rate']:g}/s {run['arrivals']}: {', '.join(parts)} (p95 of the simulations "
            f"{self.apart:.0%} apart)"
        )

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        run = self.measured
        return {
            "rate": run["rate"],
            "arrivals": run["arrivals"],
            "measured_ms": {name: run["latency_ms"][name] for name in PERCENTILES},
            "simulated_ms": {
                name: round(self.simulated.ms(name), 3) if self.simulated.latencies else None
                for name in PERCENTILES
            },
            "p95_apart": round(self.apart, 4),
        }


@dataclass(frozen=True)
class Plan:
    """What was found.

    Attributes:
        rate: requests per second of all machines together.
        limit: of the latency; None where only the throughput counts.
        headroom: the share of each machine that is kept free, 0 to below 1.
        machines: how many are enough; 0 where the limit is not met by any number.
        rows: what was simulated, by number of machines.
        checks: measured open loops beside their simulations.
    """

    rate: float
    limit: Limit | None
    headroom: float
    machines: int
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    machine: Machine
    measured: Run


def plan(
    runs: Sequence[Run],
    rate: float,
    limit: Limit | None,
    headroom: float,
    kind: str = "poisson",
    seed: int = 1,
) -> Plan:
    """How many machines like the measured one serve a rate.

    Each gets an equal share of the arrivals. So many are enough that each would still be within
    the limit if its share grew until the headroom was gone.

    Args:
        kind: of the arrivals, "poisson" or "constant".

    Raises:
        KitError: a run that the calibration needs is missing.
    """
    mode = SERVED if any(run["mode"] == SERVED for run in runs) else runs[0]["mode"]
    same = [run for run in runs if run["mode"] == mode]
    machine = calibrate(same)
    checks = tuple(check(machine, same, seed))

    def row(machines: int) -> Row:
        each = rate / machines
        found, full = (
            simulate(machine, _arrivals(kind, r, seed), seed) for r in (each, each / (1 - headroom))
        )
        return Row(machines, each, found, full)

    def enough(found: Row) -> bool:
        if limit is None:
            return found.each / (1 - headroom) <= machine.capacity
        return found.with_headroom.ms(limit.percentile) <= limit.ms

    least = max(1, math.ceil(rate / (1 - headroom) / machine.capacity))
    rows = {least: row(least)}
    if limit and _alone(machine, limit) > limit.ms:
        return Plan(rate, limit, headroom, 0, tuple(rows.values()), checks, machine, same[0])
    low, high = least - 1, least
    while not enough(rows.setdefault(high, row(high))):
        low, high = high, min(max(high + 1, math.ceil(high * 1.3)), MOST_MACHINES)
        if low == MOST_MACHINES:
            return Plan(rate, limit, headroom, 0, tuple(rows.values()), checks, machine, same[0])
    while high - low > 1:
        middle = (low + high) // 2
        rows.setdefault(middle, row(middle))
        low, high = (low, middle) if enough(rows[middle]) else (middle, high)
    for count in (high - 1, high + 1):
        if count >= 1:
            rows.setdefault(count, row(count))
    shown = tuple(rows[n] for n in sorted(rows) if high - 1 <= n <= high + 1)
    return Plan(rate, limit, headroom, high, shown, checks, machine, same[0])


def _arrivals(kind: str, rate: float, seed: int) -> list[float]:
    schedule = Arrivals(kind, rate, count=REQUESTS, seed=seed).schedule()
    return [due for due, number in schedule if number >= 0]


def _alone(machine: Machine, limit: Limit) -> float:
    """The limit's percentile in ms of requests that never wait for one another."""
    apart = 10 * (max(machine.work) + machine.delay + machine.batch_wait) + 1.0
    return simulate(machine, [i * apart for i in range(2000)], 1).ms(limit.percentile)


def check(machine: Machine, runs: Sequence[Run], seed: int) -> list[Check]:
    """Each measured open loop beside simulations of the very same arrivals."""
    found = []
    for run in runs:
        schedule = run.get("schedule")
        if not schedule or not run["latency_ms"]["p50"] or run["arrivals"] == "recorded":
            continue
        again = Arrivals(run["arrivals"], run["rate"], **schedule)
        due = [d for d, number in again.schedule() if d < 0 or number >= 0]
        lead = sum(d < 0 for d in due)
        tries = [simulate(machine, due, seed + i, lead) for i in range(CHECKS)]
        whole = sorted(latency for one in tries for latency in one.latencies)
        together = Simulated(whole if all(t.latencies for t in tries) else (), 0.0)
        apart = spread([t.ms("p95") for t in tries]) if together.latencies else 0.0
        found.append(Check(run, together, apart))
    return found


def page(found: Plan) -> str:
    """The plan as text, marked as one."""
    m, run, limit = found.machine, found.measured, found.limit
    within = f" within {limit.name} ms" if limit else ""
    answer = (
        f"{found.machines} machine{'' if found.machines == 1 else 's'} for {found.rate:g} "
        f"requests/s{within}, {found.headroom:.0%} of each kept free"
        if found.machines
        else f"no number of machines serves {found.rate:g} requests/s{within}: one request alone "
        f"takes longer"
    )
    how = " ".join(str(run[k]) for k in ("runtime", "precision") if run.get(k))
    lines = [
        "PLAN: a simulation, not a measurement",
        answer,
        "",
        f"measured: {LABELS[run['mode']]}, {run.get('model')} {how}, {len(m.speeds)} workers, "
        f"batch {len(m.batches)}",
        f"one machine answers {m.capacity:.4g}/s at most; a request is {1e3 * m.delay:.3g} ms "
        f"outside the workers; a worker among {len(m.speeds)} busy ones has {m.speeds[-1]:.0%} of "
        "its speed alone",
        "",
    ]
    names: tuple[str, ...] = PERCENTILES
    if limit and limit.percentile not in names:
        names = (*names, limit.percentile)
    head = ("machines", "each", "busy", *names, *(f"{n} *" for n in names), "")
    rows = []
    for row in found.rows:
        wanted = found.machines and row.machines >= found.machines
        cells = [_ms(row.found, n) for n in names] + [_ms(row.with_headroom, n) for n in names]
        rows.append((
            str(row.machines), f"{row.each:.4g}/s", f"{row.found.busy:.0%}", *cells,
            "enough" if wanted else "too few" if found.machines else "",
        ))  # fmt: skip
    lines.append(table(head, rows, left=0))
    lines.append(f"ms; * with the headroom of {found.headroom:.0%} used up")
    if found.checks:
        lines += [
            "",
            "the simulation against the open loops of the files (measured and simulated, ms)",
        ]
        lines += [f"  {line}" for line in found.checks]
    else:
        lines += ["", "no open loop is in the files: measure some rates to check the simulation"]
    lines.append(
        "not in it: a network between balancer and machines, uneven shares, machines that fail"
    )
    return "\n".join(lines)


def _ms(found: Simulated, name: str) -> str:
    value = found.ms(name)
    return f"{value:.4g}" if math.isfinite(value) else "no end"


def record(found: Plan) -> dict[str, Any]:
    """The same for a JSON file."""

    def figures(of: Simulated) -> dict[str, float | None]:
        return {n: round(of.ms(n), 3) if of.latencies else None for n in ("mean", *PERCENTILES)}

    return {
        "plan": True,
        "rate": found.rate,
        "limit": found.limit.name if found.limit else None,
        "headroom": found.headroom,
        "machines": found.machines,
        "capacity_of_one": round(found.machine.capacity, 3),
        "rows": [
            {
                "machines": row.machines,
                "rate_each": round(row.each, 3),
                "busy": round(row.found.busy, 3),
                "latency_ms": figures(row.found),
                "latency_ms_without_headroom": figures(row.with_headroom),
            }
            for row in found.rows
        ],
        "checks": [each.record() for each in found.checks],
    }
