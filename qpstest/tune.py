"""Which settings have the highest rate: successive halving over measurements that cost minutes.

All candidates are measured briefly, in one order and then in the other, so that a machine that
drifts does not choose between them; the better half goes on and is measured for longer, until one
is left or the rest cannot be told apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mean

from qpstest.report import table

BATCHING = ((1, 5), (2, 5), (4, 1), (4, 5), (4, 20), (8, 5))
"""Batch sizes and delays in ms that are tried on a CPU."""
GPU_BATCHING = ((1, 5), (8, 1), (16, 1), (16, 5), (32, 1), (32, 5), (64, 5))
HOPELESS = 0.6
"""Of the best so far, the rate below which a second measurement is not worth its time."""
SECONDS = 4.0
"""Of the first, briefest measurement of a candidate."""
LONGEST = 16.0
ROUNDS = 2
"""Passes over all candidates that are left, every other one backwards."""
SHORT = 16
"""Letters of a reason that fit into the table."""
NOISE = 0.03
"""Differences below this share are not taken for differences."""


@dataclass(frozen=True, order=True)
class Candidate:
    """Settings of a server.

    Attributes:
        delay: ms that a worker waits for its batch to fill.
        own_process: each worker holds the model on the GPU itself; None where it makes no
            difference.
    """

    workers: int
    threads: int
    batch: int = 1
    delay: int = 5
    own_process: bool | None = None

    @property
    def values(self) -> dict[str, str]:
        """As fields of the server's settings."""
        return {
            "workers": str(self.workers),
            "threads": str(self.threads),
            "batch_size": str(self.batch),
            "max_batch_delay": str(self.delay),
        }

    @property
    def line(self) -> str:
        """The run.sh line that serves with them."""
        flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in self.values.items())
        before = "" if self.own_process is None else f"KIT_OWN_GPU_PROCESS={int(self.own_process)} "
        return f"{before}bash run.sh {flags}"

    @property
    def name(self) -> str:
        batch = f", batch {self.batch} within {self.delay} ms" if self.batch > 1 else ""
        own = {None: "", True: ", a GPU process each", False: ", one GPU process"}
        return f"{self.workers} x {self.threads} threads{batch}{own[self.own_process]}"


@dataclass(frozen=True)
class Sample:
    """One measurement of a candidate.

    Attributes:
        rate: requests per second; 0.0 where nothing met the limit.
        memory_mb: resident memory of all workers, MB of 10^6 bytes; 0.0 where it is not known.
        why: what stood in the way; "" for nothing.
    """

    rate: float
    memory_mb: float = 0.0
    why: str = ""


@dataclass
class Entry:
    """What is known of a candidate: its samples in each stage, and why it was left out."""

    candidate: Candidate
    samples: list[list[Sample]] = field(default_factory=list)
    left_out: str = ""

    @property
    def rates(self) -> list[float]:
        """Of the last stage."""
        return [sample.rate for sample in self.samples[-1]] if self.samples else []

    @property
    def rate(self) -> float:
        return mean(self.rates) if self.rates else 0.0

    @property
    def memory_mb(self) -> float:
        return max((s.memory_mb for stage in self.samples for s in stage), default=0.0)


@dataclass(frozen=True)
class Tuned:
    """The outcome.

    Attributes:
        best: None where no candidate met the limit.
        entries: of all candidates, the best first.
        reason: one line.
    """

    best: Candidate | None
    entries: tuple[Entry, ...]
    reason: str


def candidates(
    cores: int, gpus: int = 0, shares: bool = False, per_core: int = 1
) -> list[Candidate]:
    """The settings that are tried on a machine.

    Args:
        cores: most workers x threads.
        gpus: that the model runs on; batches are larger then, and workers more.
        shares: whether a process of the server's can hold the model for all workers.
        per_core: workers a core on a GPU, at most.
    """
    if gpus:
        counts = sorted({max(1, min(n, cores * per_core)) for n in (2, 4, 6, 8, 12)})
        ways: Sequence[bool | None] = (False, True) if shares else (None,)
        return [
            Candidate(workers, 1, batch, delay, own)
            for workers in counts
            for batch, delay in GPU_BATCHING
            for own in ways
        ]
    powers = [2**i for i in range(cores.bit_length()) if 2**i <= cores]
    shapes = sorted({(w, t) for w in {*powers, cores} for t in {*powers, cores} if w * t <= cores})
    # A worker alone with a thread leaves cores idle, which is right where they are others'.
    shapes = [(w, t) for w, t in shapes if w * t * 2 > cores or (w, t) == (1, 1)]
    return [
        Candidate(workers, threads, batch, delay)
        for workers, threads in shapes
        for batch, delay in BATCHING
    ]


def tune(
    given: Sequence[Candidate],
    measure: Callable[[Candidate, float], Sample],
    memory_mb: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
    seconds: float = SECONDS,
) -> Tuned:
    """Finds the best of the candidates.

    Args:
        given: at least one.
        measure: a measurement of about so many seconds, on a server started for it.
        memory_mb: the most that all workers together may hold.
        tell: hears a line for each stage.
    """
    entries = [Entry(candidate) for candidate in given]
    left = list(entries)
    stage = 0
    while left:
        stage += 1
        tell(f"stage {stage}: {len(left)} settings, {seconds:g} s each, {ROUNDS} rounds")
        started = len(left)
        _measure(left, measure, seconds, memory_mb, tell)
        left = sorted((e for e in left if not e.left_out and e.rate > 0), key=_order)
        if len(left) < 2 or _settled(left):
            break
        keep = math.ceil(started / 2)
        # What cannot be told apart from the last that stays, stays too while it is brief.
        edge = left[min(keep, len(left)) - 1].rate * (1 - NOISE)
        for entry in left[keep:]:
            if entry.rate < edge or seconds >= LONGEST:
                entry.left_out = f"{entry.rate / left[0].rate:.0%} in stage {stage}"
        left = [e for e in left if not e.left_out]
        if seconds >= LONGEST and len(left) <= 2:
            break
        seconds = min(2 * seconds, LONGEST)
    return _outcome(entries, left)


def _order(entry: Entry) -> tuple[float, int, int, int]:
    c = entry.candidate
    return (-entry.rate, c.workers * c.threads, c.batch, c.workers)


def _measure(
    left: Sequence[Entry],
    measure: Callable[[Candidate, float], Sample],
    seconds: float,
    memory_mb: float | None,
    tell: Callable[[str], None],
) -> None:
    for entry in left:
        entry.samples.append([])
    for number in range(ROUNDS):
        for entry in left if number % 2 == 0 else list(reversed(left)):
            if entry.left_out:
                continue
            if over := _too_much(entry.candidate, left, memory_mb):
                entry.left_out = over
                continue
            top = max((e.rate for e in left), default=0.0)
            if number and entry.rate < HOPELESS * top:
                entry.left_out = f"{entry.rate / top:.0%} at first"
                continue
            sample = measure(entry.candidate, seconds)
            entry.samples[-1].append(sample)
            if memory_mb and sample.memory_mb > memory_mb:
                entry.left_out = f"{sample.memory_mb:.0f} MB of memory, {memory_mb:g} are allowed"
            elif not sample.rate:
                entry.left_out = sample.why or "answered nothing"
            tell(f"  {entry.candidate.name}: {entry.left_out or f'{sample.rate:.4g}/s'}")


def _too_much(candidate: Candidate, entries: Sequence[Entry], memory_mb: float | None) -> str:
    """Why a candidate would hold too much memory, going by what fewer workers held."""
    known = [e for e in entries if e.memory_mb and e.candidate.batch <= candidate.batch]
    if not memory_mb or not known:
        return ""
    each = max(e.memory_mb / e.candidate.workers for e in known)
    if each * candidate.workers <= 1.1 * memory_mb:
        return ""
    return f"about {each * candidate.workers:.0f} MB of memory, {memory_mb:g} are allowed"


def _settled(left: Sequence[Entry]) -> bool:
    """Whether the first is better in its worst round than every other in its best."""
    best, *others = left
    return all(min(best.rates) > max(other.rates) * (1 + NOISE) for other in others)


def _outcome(entries: Sequence[Entry], left: Sequence[Entry]) -> Tuned:
    def rank(entry: Entry) -> tuple[bool, int, tuple[float, int, int, int]]:
        return (bool(entry.left_out), -len(entry.samples), _order(entry))

    ranked = tuple(sorted(entries, key=rank))
    if not left:
        tried = [e for e in ranked if e.samples]
        why = next((e.left_out for e in tried if e.left_out), "nothing was measured")
        return Tuned(None, ranked, f"no settings are within the limits: {why}")
    top, last = left[0].rate, len(left[0].samples)
    alike = [e for e in entries if len(e.samples) == last and e.rate >= top * (1 - NOISE)]
    # Of those that cannot be told apart, the one that takes least.
    best = min(alike, key=lambda e: (_order(e)[1:], e.memory_mb))
    others = [e for e in ranked if e is not best and e.rates]
    if len(alike) > 1:
        names = ", ".join(e.candidate.name for e in alike if e is not best)
        reason = f"{best.rate:.4g}/s; {names} cannot be told apart from it and take no less"
    elif others:
        second = max(others, key=lambda e: (len(e.samples), e.rate))
        reason = f"{best.rate:.4g}/s, the next ({second.candidate.name}) {second.rate:.4g}/s"
    else:
        reason = f"{best.rate:.4g}/s, the only settings within the limits"
    return Tuned(best.candidate, ranked, reason)


def text(tuned: Tuned) -> str:
    """The candidates as a table, the best first, and why it was chosen."""
    rows, notes = [], []
    for entry in tuned.entries:
        name = entry.candidate.name
        stages = ["/".join(f"{s.rate:.3g}" for s in stage) for stage in entry.samples if stage]
        said = "best" if entry.candidate == tuned.best else entry.left_out
        if len(said) > SHORT:
            notes.append(f"{name}: {said}")
            said = "see below"
        memory = f"{entry.memory_mb:.0f}" if entry.memory_mb else "-"
        short = name.replace(" threads", "").replace(" within", ",")
        rows.append((short, " ".join(stages) or "-", memory, said))
    head = ("workers x threads", "req/s by stage", "MB", "of the best")
    chosen = f"{tuned.best.name}: {tuned.reason}" if tuned.best else tuned.reason
    return "\n".join([table(head, rows, left=1), *notes, chosen])


def with_default(given: Sequence[Candidate], default: Candidate) -> list[Candidate]:
    """The candidates and the settings of today, which are measured in any case."""
    same = replace(default, delay=5) if default.batch == 1 else default
    return [*given, *([] if same in given else [same])]
