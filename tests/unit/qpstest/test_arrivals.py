from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import KitError
from qpstest.arrivals import LEAD, TAIL, Arrivals, recorded


def counted(arrivals: Arrivals, share: int = 0, shares: int = 1) -> list[float]:
    return [due for due, number in arrivals.schedule(share, shares) if number >= 0]


def test_constant_arrivals_begin_before_and_go_on_after_the_counted_ones() -> None:
    schedule = list(Arrivals("constant", 10.0, seconds=2.0).schedule())
    assert [round(due, 6) for due, number in schedule if number >= 0] == [i / 10 for i in range(20)]
    assert [number for _, number in schedule if number >= 0] == list(range(20))
    assert schedule[0][0] == -LEAD
    assert schedule[-1][0] == pytest.approx(2.0 + TAIL)
    assert counted(Arrivals("constant", 0.1, count=3)) == [0.0, 10.0, 20.0]


@settings(deadline=None)
@given(
    st.sampled_from(["constant", "poisson"]),
    st.floats(min_value=0.5, max_value=200),
    st.integers(1, 4),
    st.integers(0, 9),
)
def test_the_shares_are_the_whole_schedule(kind: str, rate: float, shares: int, seed: int) -> None:
    arrivals = Arrivals(kind, rate, count=25, seed=seed)
    parts = [entry for share in range(shares) for entry in arrivals.schedule(share, shares)]
    assert sorted(parts) == sorted(arrivals.schedule())
    assert len(counted(arrivals)) == arrivals.total == 25


def test_poisson_arrivals_have_their_rate_and_an_exponential_spread() -> None:
    due = counted(Arrivals("poisson", 50.0, seconds=200.0, seed=3))
    assert len(due) == pytest.approx(10_000, rel=0.03)
    gaps = [b - a for a, b in pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(0.02, rel=0.03)
    assert statistics.pstdev(gaps) == pytest.approx(0.02, rel=0.05)
    assert counted(Arrivals("poisson", 50.0, seconds=1.0, seed=3)) == [d for d in due if d < 1.0]
    assert counted(Arrivals("poisson", 50.0, seconds=1.0, seed=4)) != [d for d in due if d < 1.0]


def test_recorded_arrivals(tmp_path: Path) -> None:
    file = tmp_path / "times.csv"
    file.write_text("time,who\n100.0,a\n100.5,b\n\n102.0,c # last\n")
    arrivals = recorded(file)
    assert (arrivals.times, arrivals.rate, arrivals.total) == ((0.0, 0.5, 2.0), 1.0, 3)
    assert counted(arrivals) == [0.0, 0.5, 2.0]
    assert recorded(file, rate=2.0).times == (0.0, 0.25, 1.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least two different times"),
        ("1\n1\n", "at least two different times"),
        ("1\n2\nx\n", "line 3: seconds were expected, 'x'"),
        ("1\n2\n1.5\n", "line 3 goes back from 2 to 1.5 s"),
        ("1\nnan\n", "line 2: seconds were expected"),
    ],
)
def test_recorded_arrivals_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "times").write_text(text)
    with pytest.raises(KitError, match=said):
        recorded(tmp_path / "times")
    with pytest.raises(KitError, match="cannot be read: No such file"):
        recorded(tmp_path / "none")
