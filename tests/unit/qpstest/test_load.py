from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from qpstest.board import END, FILL, Board
from qpstest.fleet import share_out
from qpstest.load import Reply, run_batches, run_callers


def new_board(limit: int, lead: int = 0, seconds: float = 0.0) -> Board:
    board = Board(multiprocessing.get_context("spawn"))
    board.open(limit, lead, seconds)
    return board


class Sleeper:
    """A session that answers after a while and fails each third request."""

    in_flight = 0
    most = 0
    lock = threading.Lock()

    def __init__(self, seconds: float = 0.002):
        self.seconds = seconds

    def call(self, number: int) -> Reply:
        with Sleeper.lock:
            Sleeper.in_flight += 1
            Sleeper.most = max(Sleeper.most, Sleeper.in_flight)
        time.sleep(self.seconds)
        with Sleeper.lock:
            Sleeper.in_flight -= 1
        return Reply("400", "on purpose") if number % 3 == 2 else Reply("")

    def close(self) -> None:
        """Nothing is open."""


def test_board_hands_out_lead_counted_fill_and_end() -> None:
    board = new_board(limit=2, lead=1)
    assert [board.take(t) for t in (1.0, 2.0, 3.0, 4.0)] == [FILL, 0, 1, FILL]
    assert board.progress().started == 2.0
    board.answered(ok=True)
    assert board.take(5.0) == FILL
    board.answered(ok=False)
    assert board.take(6.0) == END
    assert (board.progress().answered, board.progress().failed) == (2, 1)


def test_board_ends_by_time() -> None:
    board = new_board(limit=0, seconds=10.0)
    assert [board.take(t) for t in (100.0, 105.0, 109.9)] == [0, 1, 2]
    assert board.take(110.0) == FILL
    for _ in range(3):
        board.answered(ok=True)
    assert board.take(110.1) == END


def test_board_stops() -> None:
    board = new_board(limit=100)
    board.take(0.0)
    board.stop()
    assert board.take(1.0) == END


def test_closed_loop_keeps_the_concurrency_and_counts_all() -> None:
    Sleeper.most = 0
    tally = run_callers(Sleeper, 5, new_board(limit=60, lead=5))
    assert Sleeper.most == 5
    assert len(tally.latencies) == 40
    assert tally.errors == {"400": 20}
    assert min(tally.latencies) >= 0.002


def test_a_fault_of_the_tester_itself_is_not_hidden() -> None:
    class Broken(Sleeper):
        def call(self, number: int) -> Reply:
            raise ZeroDivisionError

    try:
        run_callers(Broken, 3, new_board(limit=10))
    except ZeroDivisionError:
        return
    raise AssertionError("the fault was hidden")


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 40), st.integers(0, 5))
def test_batches_answer_each_request_once(callers: int, batch: int, limit: int, lead: int) -> None:
    sizes: list[int] = []
    seen: list[int] = []

    def handle(numbers: Sequence[int]) -> list[Reply]:
        sizes.append(len(numbers))
        seen.extend(numbers)
        return [Reply("")] * len(numbers)

    tally = run_batches(handle, callers, batch, new_board(limit, lead))
    assert len(tally.latencies) == limit
    assert set(sizes) <= set(range(1, min(callers, batch) + 1))
    assert max(sizes) == min(callers, batch)
    assert set(seen) == set(range(limit))


def test_batch_latency_holds_the_wait_for_earlier_batches() -> None:
    def handle(numbers: Sequence[int]) -> list[Reply]:
        time.sleep(0.02)
        return [Reply("")] * len(numbers)

    tally = run_batches(handle, 4, 1, new_board(limit=12, lead=4))
    assert min(tally.latencies) >= 0.075  # three others before each
    assert tally.ended > 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_are_even(total: int, parts: int) -> None:
    shares = share_out(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
