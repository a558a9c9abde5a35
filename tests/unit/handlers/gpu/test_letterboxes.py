"""Recorded letterboxes, on the CPU: a graph is the same calls once more, as a GPU replays them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from handlers.gpu import letterboxes, pictures
from handlers.gpu.letterboxes import KEPT, OFTEN, Letterboxes

SIDE = 64


class Capture:
    """Counts what it recorded; refuses where it is told to."""

    def __init__(self, refuses: bool = False):
        self.refuses = refuses
        self.recorded = 0

    def __call__(self, work: Callable[[], Any]) -> Callable[[], Any]:
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        work()
        return work


def random_pictures(count: int, height: int, width: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, height, width)
    return [
        torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8) for _ in range(count)
    ]


def check(used: Letterboxes, target: Tensor, given: list[Tensor], size: tuple[int, int]) -> None:
    want = torch.full((len(given), 3, SIDE, SIDE), -1.0)
    lie = pictures.letterbox(given, want, [size] * len(given))
    assert used(given, target, [size] * len(given)) == lie
    torch.testing.assert_close(target[: len(given)], want, rtol=0, atol=0)


def test_a_size_that_comes_often_is_recorded_and_stays_right() -> None:
    capture = Capture()
    used, target = Letterboxes(capture), torch.zeros(4, 3, SIDE, SIDE)
    for round_ in range(OFTEN + 5):
        given = random_pictures(1 + round_ % 4, 72, 128, round_)
        check(used, target, given, (72, 128))
        assert capture.recorded == (round_ >= OFTEN - 1)


def test_another_size_between_leaves_no_trace() -> None:
    capture = Capture()
    used, target = Letterboxes(capture), torch.zeros(2, 3, SIDE, SIDE)
    for round_ in range(3 * OFTEN):
        check(used, target, random_pictures(2, 72, 128, round_), (72, 128))
        check(used, target, random_pictures(1, 90, 50, round_), (180, 100))
        mixed = [*random_pictures(1, 72, 128, round_), *random_pictures(1, 60, 60, round_)]
        want = torch.zeros(2, 3, SIDE, SIDE)
        sizes = [(72, 128), (60, 60)]
        assert used(mixed, target, sizes) == pictures.letterbox(mixed, want, sizes)
        torch.testing.assert_close(target, want, rtol=0, atol=0)
    assert capture.recorded == 2


def test_each_input_has_its_own() -> None:
    used = Letterboxes(Capture())
    targets = [torch.zeros(n, 3, SIDE, SIDE) for n in (1, 4)]
    for round_ in range(2 * OFTEN):
        for target in targets:
            check(used, target, random_pictures(1, 72, 128, round_), (72, 128))


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letterboxes, "OFTEN", 1)
    capture = Capture()
    used, target = Letterboxes(capture), torch.zeros(1, 3, SIDE, SIDE)
    for width in range(40, 40 + 2 * KEPT):
        check(used, target, random_pictures(1, 40, width, width), (40, width))
    assert len(used._recorded) == KEPT
    check(used, target, random_pictures(1, 40, 40, 0), (40, 40))
    assert capture.recorded == 2 * KEPT + 1


def test_what_cannot_be_recorded_is_called(caplog: pytest.LogCaptureFixture) -> None:
    used, target = Letterboxes(Capture(refuses=True)), torch.zeros(2, 3, SIDE, SIDE)
    for round_ in range(OFTEN + 3):
        check(used, target, random_pictures(2, 72, 128, round_), (72, 128))
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA graph for letterboxes: operation not permitted when stream is capturing"
    ]
