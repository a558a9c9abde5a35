"""The gate: a converted model must answer like the original on inputs that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import KitError
from handlers.runtimes.base import Runtime
from repack.backends import precision as precisions
from repack.model import RAW, Arrays, Subject
from repack.samples import Sample
from repack.tasks.classification import compare as verify_classification
from repack.tasks.detection import compare as verify_detection
from repack.tasks.segmentation import compare as verify_segmentation

RANDOM_INPUTS = 3
FIRST_SEED = 7001
"""Seeds of the gate's random inputs; the conversion's own example has seed 1."""


@dataclass(frozen=True)
class Tolerance:
    """How far outputs may differ.

    Attributes:
        rtol, atol: every value must lie within ``atol + rtol * |original|``; None where the
            precision cannot promise that for every value.
        relative_l2: bound on ``|converted - original| / |original|`` over the whole output.
    """

    rtol: float | None
    atol: float | None
    relative_l2: float


TOLERANCES = {
    "f32": Tolerance(1e-4, 9e-4, 1e-4),
    "f16": Tolerance(None, None, 1e-2),
    "bf16": Tolerance(None, None, 3e-2),
    "int8": Tolerance(None, None, 1.5e-1),
    "best": Tolerance(None, None, 1.5e-1),
}
"""f32 as the working notes ask. f16 keeps 11 bits of mantissa (2**-11 = 0.05 % a value), bf16 8
(2**-8 = 0.4 %), int8 has 256 levels a tensor: for these the whole output's error is bounded, and
the task's metric decides. "best" may hold int8 layers, so it is judged as int8."""


class GateFailed(KitError):
    """The converted model does not answer like the original.

    Attributes:
        result: what was compared and what differs.
    """

    def __init__(self, message: str, result: GateResult):
        super().__init__(message)
        self.result = result


@dataclass
class GateResult:
    """What the gate saw.

    Attributes:
        failures: one line each; empty where the gate is passed.
        inputs: how many inputs of which kind were compared.
        outputs: per output, the largest absolute and relative difference and the relative L2 error.
        task: the task's own metric, empty for raw tensors.
    """

    precision_asked: str
    precision_found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True)
class Reference:
    """The gate's inputs with the original's answers, computed once for all candidates."""

    inputs: list[Arrays]
    answers: list[Arrays]
    samples: list[Sample]

    @classmethod
    def make(cls, subject: Subject, samples: Sequence[Sample]) -> Reference:
        """Random inputs (one of them a batch of two, where the batch is free), then the samples."""
        free = isinstance(subject.inputs[0].shape[0], str)
        inputs = [
            subject.random_inputs(FIRST_SEED + i, 2 if free and i == 0 else 1)
            for i in range(RANDOM_INPUTS)
        ]
        inputs += [s.inputs for s in samples]
        answers = [{k: np.array(v) for k, v in subject.original(given).items()} for given in inputs]
        return cls(inputs, answers, list(samples))


def check(subject: Subject, runtime: Runtime, asked: str, reference: Reference) -> GateResult:
    """Compares a converted model, loaded in the runtime that will serve it, with the original.

    Args:
        runtime: activated.
        asked: the precision that was asked for.
    """
    result = GateResult(asked, precisions.found(runtime))
    lack = precisions.shortfall(asked, result.precision_found)
    if lack:
        result.failures.append(f"precision: {lack}")
    result.inputs = {"random": RANDOM_INPUTS, "samples": len(reference.samples)}
    converted = [
        {k: np.array(v) for k, v in runtime.infer(given, every=True).items()}
        for given in reference.inputs
    ]
    for name in RAW if RAW[0] in converted[0] else [s.name for s in subject.outputs]:
        _compare(name, asked, reference.answers, converted, result)
    if subject.task == "detection" and not result.failures:
        verify_detection.compare(subject, asked, reference, converted, result)
    if subject.task == "classification":
        verify_classification.compare(subject, asked, reference, converted, result)
    if subject.task == "segmentation":
        verify_segmentation.compare(subject, asked, reference, converted, result)
    return result


def _compare(
    name: str,
    asked: str,
    originals: Sequence[Arrays],
    converted: Sequence[Arrays],
    result: GateResult,
) -> None:
    tolerance = TOLERANCES[asked]
    worst = {"max_abs": 0.0, "max_rel": 0.0, "relative_l2": 0.0}
    outside = 0
    for want, have in zip(originals, converted, strict=True):
        a, b = want[name], have.get(name)
        if b is None or a.shape != b.shape:
            got = "nothing" if b is None else list(b.shape)
            result.failures.append(f"{name}: shape {got}, the original's is {list(a.shape)}")
            return
        if not _same_odd_values(a, b):
            result.failures.append(
                f"{name}: NaN or infinity where the original has numbers, or the reverse"
            )
            return
        figures, bad = _difference(a, b, tolerance)
        worst = {k: max(v, figures[k]) for k, v in worst.items()}
        outside += bad
    result.outputs[name] = {k: float(f"{v:.3g}") for k, v in worst.items()}
    if outside:
        result.failures.append(
            f"{name}: {outside:,} values outside rtol {tolerance.rtol}, atol {tolerance.atol} "
            f"(largest difference {worst['max_abs']:.3g})"
        )
    if not worst["relative_l2"] <= tolerance.relative_l2:
        result.failures.append(
            f"{name}: relative L2 error {worst['relative_l2']:.3g}, "
            f"at most {tolerance.relative_l2:g} for {asked}"
        )


def _same_odd_values(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether NaN, +infinity and -infinity stand at the same places."""
    odd = ~(np.isfinite(a) & np.isfinite(b))
    return bool(np.array_equal(a[odd], b[odd], equal_nan=a.dtype.kind == "f"))


def _difference(
    a: NDArray[Any], b: NDArray[Any], tolerance: Tolerance
) -> tuple[dict[str, float], int]:
    usual = np.isfinite(a)
    original, other = a[usual].astype(np.float64), b[usual].astype(np.float64)
    error = np.abs(other - original)
    size = np.abs(original)
    norm = float(np.linalg.norm(original))
    figures = {
        "max_abs": float(error.max(initial=0.0)),
        "max_rel": float((error / np.maximum(size, 1e-3)).max(initial=0.0)),
        "relative_l2": float(np.linalg.norm(error)) / max(norm, 1e-12),
    }
    if tolerance.rtol is None or tolerance.atol is None:
        return figures, 0
    return figures, int((~(error <= tolerance.atol + tolerance.rtol * size)).sum())
