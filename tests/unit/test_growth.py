"""The soak's check: noise passes, a line and a step do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.support.growth import Bound, rise

ROUNDS = 60
REQUESTS = [100.0 * (i + 1) for i in range(ROUNDS)]
BOUND = Bound(floor=8.0, a_thousand=1.0)


def noisy(shape: Callable[[int], float], seed: int = 1) -> list[float]:
    """Around 200, with noise of 1 and, in every seventh round, an outlier of 40."""
    noise = np.random.default_rng(seed).normal(0, 1, ROUNDS)
    return [200 + shape(i) + float(noise[i]) + 40 * (i % 7 == 3) for i in range(ROUNDS)]


@pytest.mark.parametrize(
    "shape",
    [
        lambda i: 0.0,
        lambda i: 60.0 * min(i, 19) / 19,  # all of it while the server warms up
        lambda i: -float(i),
        lambda i: 0.1 * i,  # 4 of 12 that are allowed
    ],
    ids=["flat", "warms up", "falls", "within the bound"],
)
@pytest.mark.parametrize("seed", range(5))
def test_what_is_flat_passes(shape: Callable[[int], float], seed: int) -> None:
    assert rise(REQUESTS, noisy(shape, seed)).within(BOUND)


@pytest.mark.parametrize(
    ("shape", "by"),
    [
        (lambda i: 0.5 * i, "by_slope"),
        (lambda i: 20.0 * (i > 45), "by_level"),
        (lambda i: 20.0 * (i > 30), "by_level"),
    ],
    ids=["a line", "a late step", "a step"],
)
@pytest.mark.parametrize("seed", range(5))
def test_what_grows_does_not(shape: Callable[[int], float], by: str, seed: int) -> None:
    found = rise(REQUESTS, noisy(shape, seed))
    assert not found.within(BOUND)
    assert getattr(found, by) > found.allowed(BOUND)


def test_the_figures_of_a_line() -> None:
    found = rise(REQUESTS, [2.0 * i for i in range(ROUNDS)])
    assert (found.requests, found.by_slope) == (3900, 78)
    assert found.level == 2 * np.median(range(20, 30))
    assert found.by_level == 2 * (np.median(range(50, 60)) - np.median(range(20, 30)))
    assert found.allowed(Bound(floor=1, a_thousand=2, share=0.5)) == 1 + 7.8 + 24.5


def test_too_few_rounds_say_nothing() -> None:
    with pytest.raises(ValueError, match="11 rounds came"):
        rise(REQUESTS[:11], [1.0] * 11)
