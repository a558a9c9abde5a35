"""The gate where the original itself answers NaN or infinity."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from repack import gate as verify
from repack.gate import GateResult

ORIGINAL = np.array([[-np.inf, 1.0, 2.0, np.nan]], np.float32)


def compared(converted: list[float], asked: str = "bf16") -> GateResult:
    result = GateResult(asked)
    other: NDArray[np.float32] = np.array([converted], np.float32)
    verify._compare("y", asked, [{"y": ORIGINAL}], [{"y": other}], result)
    return result


def test_the_same_odd_values_pass() -> None:
    assert compared([-np.inf, 1.0, 2.0, np.nan], "f32").passed


@pytest.mark.parametrize("asked", ["f32", "bf16", "int8"])
@pytest.mark.parametrize(
    "converted",
    [
        [np.nan, np.nan, np.nan, np.nan],
        [np.inf, 1.0, 2.0, np.nan],
        [-np.inf, 1.0, 2.0, 3.0],
        [0.0, 1.0, 2.0, np.nan],
        [-np.inf, np.inf, 2.0, np.nan],
        [-np.inf, 500.0, -600.0, np.nan],
    ],
)
def test_other_values_fail(converted: list[float], asked: str) -> None:
    assert not compared(converted, asked).passed


def test_an_infinity_does_not_hide_the_rest() -> None:
    result = compared([-np.inf, 1.5, 2.0, np.nan])
    assert result.outputs["y"]["max_abs"] == pytest.approx(0.5)
