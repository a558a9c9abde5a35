from __future__ import annotations

import pytest

from deploy.torchserve.guard.http import Refusal
from deploy.torchserve.guard.turns import Turns


class One:
    def __init__(self) -> None:
        self.went = False

    def go(self) -> None:
        self.went = True


def test_first_come_first_served_and_who_leaves_costs_no_turn() -> None:
    turns, all_of_them = Turns("fd1", 2, 3), [One() for _ in range(6)]
    for one in all_of_them[:5]:
        turns.enter(one)
    with pytest.raises(Refusal, match=r"model fd1 .* 2 are in work and 3 wait") as caught:
        turns.enter(all_of_them[5])
    assert caught.value.status == 503
    turns.forget(all_of_them[2])
    turns.leave()
    assert [one.went for one in all_of_them] == [True, True, False, True, False, False]
    for _ in range(3):
        turns.leave()
    assert turns.running == 0
    turns.enter(all_of_them[5])
    assert all_of_them[5].went
