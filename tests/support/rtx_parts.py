"""What a building process is told to call, for the tests of ``handlers.engines.job``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from handlers.engines.build import Job, Log

WEIGHT = np.eye(64, dtype=np.float32) + 1


def product(trt: Any, log: Log, job: Job) -> Callable[[Any, Any], None]:
    """Fills a network with ``x @ WEIGHT``."""

    def fill(network: Any, config: Any) -> None:
        x = network.add_input("x", trt.float32, (-1, 64))
        weight = network.add_constant(WEIGHT.shape, WEIGHT).get_output(0)
        none = trt.MatrixOperation.NONE
        answer = network.add_matrix_multiply(x, none, weight, none).get_output(0)
        (answer.name,) = job.outputs
        network.mark_output(answer)

    return fill


def calibrator(trt: Any, job: Job) -> Any:
    """None, but the reason tells that it was asked for."""
    raise ValueError(f"calibrator of {trt.__version__} for {job.calibration}")
