"""The gate: a converted model must answer like the original on inputs that it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers.errors import KitError
from handlers.runtimes.base import Runtime
from repack import rows
from repack.backends.base import Backend
from repack.inputs import like
from repack.model import Arrays, Model, within
from repack.samples import Sample
from repack.tasks import TASKS
from repack.tolerances import ATOL, TOLERANCES, Tolerance, shortfall

RANDOM_INPUTS = 3
FIRST_SEED = 7001
"""Seeds of the gate's random inputs; the conversion's own example has seed 1."""

HOLLOW = (
    "not proven on these inputs: the original's answers to them are empty or all zero: give "
    "--samples that it has an answer to"
)
NOT_PROVEN = "not proven: an engine holds no original to compare with; name it with --original FILE"


class GateFailed(KitError):
    """The converted model does not answer like the original.

    Attributes:
        result: what was compared and what differs.
    """

    def __init__(self, message: str, result: GateResult):
        super().__init__(message)
        self.result = result


def same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two answers of one model to one input are the same but for rounding."""
    if a.shape != b.shape or a.dtype.kind != "f":
        return a.shape == b.shape and bool((a == b).all())
    left, right = a.astype(np.float64), b.astype(np.float64)
    return bool((np.abs(left - right) <= ATOL + SAME * np.abs(left)).all())


SAME = 1e-3
"""Relative difference that another order of sums may make within one model."""


@dataclass
class GateResult:
    """What the gate saw.

    Attributes:
        failures: one line each; empty where the gate is passed.
        inputs: how many inputs of which kind were compared.
        outputs: per output, the largest absolute and relative difference and the relative L2 error.
        task: the task's own metric, empty for raw tensors.
        note: why nothing was compared; else "".
    """

    precision_asked: str
    precision_found: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, dict[str, float]] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def passed(self) -> bool | None:
        """None where nothing was compared."""
        return None if self.note else not self.failures

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self) | {"passed": self.passed}
        if not self.note:
            del found["note"]
        return found


@dataclass(frozen=True)
class Reference:
    """The gate's inputs with the original's answers, computed once for all candidates."""

    inputs: list[Arrays]
    answers: list[Arrays]
    samples: list[Sample]

    @classmethod
    def make(cls, model: Model, samples: Sequence[Sample]) -> Reference:
        """Random inputs (one of them a batch of two, where the batch is free; other free axes are
        as long as the first sample's), then the samples."""
        free = isinstance(model.inputs[0].shape[0], str)
        drawn = model
        if samples:
            drawn = replace(model, inputs=like(model.inputs, samples[0].inputs))
        inputs = [
            drawn.random_inputs(FIRST_SEED + i, 2 if free and i == 0 else 1)
            for i in range(RANDOM_INPUTS)
        ]
        inputs += [s.inputs for s in samples]
        answers = [{k: np.array(v) for k, v in model.ask(given).items()} for given in inputs]
        found = cls(inputs, answers, list(samples))
        found.refuse_odd(model)
        if TASKS[model.task].batches and len(next(iter(inputs[0].values()))) > 1:
            found.refuse_mixed(model)
        return found

    @property
    def hollow(self) -> bool:
        """Whether no answer says anything: then agreeing with it proves nothing."""
        return not any(value.any() for answer in self.answers for value in answer.values())

    def refuse_odd(self, model: Model) -> None:
        """Refuses an original that answers NaN or infinity, or otherwise when it is asked again.

        Raises:
            KitError: by the output's name.
        """
        path = model.source.path
        for answer in self.answers:
            for name, value in answer.items():
                if value.dtype.kind == "f" and value.size and not np.isfinite(value).any():
                    raise KitError(
                        f"{path}: the model answers NaN or infinity in {name}, no number"
                    )
        for name in self.answers[0]:
            odd = [a[name] for a in self.answers if a[name].dtype.kind == "f"]
            if odd and all(np.isnan(value).any() for value in odd):
                share = float(np.isnan(odd[-1]).mean())
                raise KitError(
                    f"{path}: the model answers NaN in {name}, whatever comes ({share:.2%} of its "
                    "values)"
                )
        again = {k: np.array(v) for k, v in model.ask(self.inputs[-1]).items()}
        for name, value in self.answers[-1].items():
            if not same(value, again[name]):
                raise KitError(
                    f"{path}: the model does not repeat itself: {name} differs between two calls "
                    "with one input, as with random numbers, dropout left on, or a state it keeps"
                )

    def refuse_mixed(self, model: Model) -> None:
        """Refuses an original whose answer to one input depends on the others in its batch.

        Raises:
            KitError: by the output's name and the difference.
        """
        both = self.inputs[0]
        for i in range(len(next(iter(both.values())))):
            alone = model.ask({k: v[i : i + 1] for k, v in both.items()})
            for name, value in self.answers[0].items():
                if len(value) != len(next(iter(both.values()))) or same(value[i], alone[name][0]):
                    continue
                off = float(np.abs(value[i].astype(float) - alone[name][0].astype(float)).max())
                raise KitError(
                    f"{model.source.path}: {name} for one input depends on the others in its batch "
                    f"(by up to {off:.3g}): a server answers several requests at once; export it "
                    "with a batch of 1, or give --input-shape with 1 in its first place"
                )


def check(
    model: Model, backend: Backend, runtime: Runtime, asked: str, reference: Reference | None
) -> GateResult:
    """Compares a converted model, loaded in the runtime that will serve it, with the original.

    Args:
        runtime: activated.
        asked: the precision that was asked for.
        reference: None where there is no original: then the model must run, and the result says
            that nothing was compared.
    """
    result = GateResult(asked, backend.found(runtime).report(runtime))
    if reference is None:
        result.note = NOT_PROVEN
        drawn = within(model, model.built.profile if model.built else {})
        runtime.infer(drawn.random_inputs(FIRST_SEED))
        return result
    if reference.hollow and asked == "f32":
        result.note = HOLLOW
    elif reference.hollow:
        result.failures.append(HOLLOW)
    lack = shortfall(asked, result.precision_found, model.own_types)
    if lack:
        result.failures.append(f"precision: {lack}")
    result.inputs = {"random": RANDOM_INPUTS, "samples": len(reference.samples)}
    converted = [
        {k: np.array(v) for k, v in runtime.infer(given, every=True).items()}
        for given in reference.inputs
    ]
    names = tuple(s.name for s in model.outputs)
    if model.export is not None and model.export.outputs[0] in converted[0]:
        names = model.export.outputs
    if model.sorts:
        converted = rows.matched(reference.answers, converted, names)
    bounds = "f16" if model.half and asked == "f32" else asked
    task = TASKS[model.task]
    for name in names:
        if task.metric and reference.answers[0][name].dtype.kind in "iub":
            _count(name, reference.answers, converted, result)
        else:
            _compare(name, bounds, reference.answers, converted, result)
    if task.metric and (task.names_causes or not result.failures):
        found = task.compare(model, bounds, reference.answers, converted, reference.samples)
        result.task = found.figures
        result.failures += found.failures
    return result


def _count(
    name: str, originals: Sequence[Arrays], converted: Sequence[Arrays], result: GateResult
) -> None:
    """How many whole numbers differ. How many may is for the task's own measure: a number of a
    class, chosen inside the model, is another one altogether where two are as good."""
    differing = total = 0
    for want, have in zip(originals, converted, strict=True):
        a, b = want[name], have.get(name)
        if b is None or a.shape != b.shape:
            got = "nothing" if b is None else list(b.shape)
            result.failures.append(f"{name}: shape {got}, the original's is {list(a.shape)}")
            return
        differing, total = differing + int((a != b).sum()), total + a.size
    result.outputs[name] = {"differing": float(f"{differing / max(total, 1):.3g}")}


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
    # Below the absolute tolerance a relative error means nothing.
    norm = max(float(np.linalg.norm(original)), ATOL * np.sqrt(max(original.size, 1)))
    figures = {
        "max_abs": float(error.max(initial=0.0)),
        "max_rel": float((error / np.maximum(size, 1e-3)).max(initial=0.0)),
        "relative_l2": float(np.linalg.norm(error)) / norm,
    }
    if tolerance.rtol is None or tolerance.atol is None:
        return figures, 0
    return figures, int((~(error <= tolerance.atol + tolerance.rtol * size)).sum())
