"""The forms that a model may take here: built, loaded, put through the gate, and timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from handlers.errors import KitError
from handlers.passport import Artefact, Passport
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from repack.converters import (
    PRECISIONS,
    onnx_from_module,
    openvino_from_onnx,
    suppression,
    torchscript_from_module,
)
from repack.progress import step
from repack.subjects import Arrays, Subject
from repack.verify import GateResult, Reference, check

ROUNDS, CALLS = 6, 4
"""Candidates are timed in turns, so that a slow moment of the machine meets all of them."""


@dataclass
class Candidate:
    """One backend and precision, and what became of it.

    Attributes:
        artefact: set once it is built.
        gate: set once it was compared.
        error: why it could not be built or loaded, in one line.
        ms: median milliseconds of one call, batch 1, one thread; 0 where not measured.
    """

    backend: str
    precision: str
    artefact: Artefact | None = None
    gate: GateResult | None = None
    error: str = ""
    ms: float = 0.0
    runtime: Runtime | None = field(default=None, repr=False)

    @property
    def passed(self) -> bool:
        return self.gate is not None and self.gate.passed

    @property
    def verdict(self) -> str:
        if self.error:
            return self.error
        assert self.gate is not None
        return "passed" if self.gate.passed else "; ".join(self.gate.failures)

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "precision": self.precision,
            "verdict": self.verdict,
            "ms": round(self.ms, 2) or None,
            "gate": self.gate.to_dict() if self.gate else None,
        }


def listed(subject: Subject, backend: str, precision: str, calibrated: bool) -> list[Candidate]:
    """The candidates for what the user asked.

    Args:
        backend: a key of ``PRECISIONS``, or "auto" for every one.
        precision: "f32", "bf16", "int8", or "auto" for every one that can be built.
        calibrated: whether there is anything to calibrate int8 on.

    Raises:
        KitError: a combination that does not exist.
    """
    backends = [b for b in PRECISIONS if backend in ("auto", b)]
    if subject.module is None and backend in ("auto", "torchscript"):
        backends = [b for b in backends if b != "torchscript"]
    found = [
        Candidate(b, p)
        for b in backends
        for p in PRECISIONS[b]
        if precision in ("auto", p) and (p != "int8" or calibrated or precision == "int8")
    ]
    if not found:
        have = "; ".join(f"{b}: {', '.join(PRECISIONS[b])}" for b in backends) or "none"
        raise KitError(
            f"--backend {backend} --precision {precision} is not to be had for a "
            f"{subject.source.family} source; there is {have}"
        )
    return found


class Workshop:
    """Builds candidates in a staging folder; shared steps (the ONNX export) run once."""

    def __init__(self, subject: Subject, stage: Path, calibration: Sequence[Arrays]):
        self.subject = subject
        self.stage = stage
        self.calibration = calibration
        self._onnx: Path | None = None

    def build(self, candidate: Candidate) -> None:
        """Sets ``candidate.artefact``; a ``KitError`` is kept in ``candidate.error``."""
        folder = f"{candidate.backend}-{candidate.precision}"
        (self.stage / folder).mkdir(parents=True)
        try:
            candidate.artefact = self._artefact(candidate, folder)
        except KitError as e:
            candidate.error = str(e)

    def onnx(self) -> Path:
        """The model as ONNX, with suppression at its end where it is a detector."""
        if self._onnx is None:
            subject = self.subject
            if subject.module is None:
                self._onnx = subject.source.path
                return self._onnx
            folder = self.stage / "onnx"
            folder.mkdir()
            exported = folder / "exported.onnx"
            with step("exporting to ONNX"):
                onnx_from_module.convert(subject, exported)
            self._onnx = exported
            if subject.task == "detection":
                s = subject.settings
                self._onnx = folder / "detector.onnx"
                suppression.append(
                    exported, self._onnx, s["confidence"], s["iou"], s["max_detections"]
                )
        return self._onnx

    def _artefact(self, candidate: Candidate, folder: str) -> Artefact:
        precision, detector = candidate.precision, self.subject.task == "detection"
        output = "detections" if detector else "tensors"
        if candidate.backend == "torchscript":
            file = f"{folder}/model.pt"
            torchscript_from_module.convert(self.subject, self.stage / file)
            names = [s.name for s in self.subject.outputs]
            output = "boxes" if detector else "tensors"
            return Artefact("torchscript", (file,), precision, {}, output, {"outputs": names})
        if candidate.backend == "onnxruntime":
            file = f"{folder}/model.onnx"
            shutil.copyfile(self.onnx(), self.stage / file)
            return Artefact("onnxruntime", (file,), precision, {}, output)
        files = (f"{folder}/model.xml", f"{folder}/model.bin")
        execution = openvino_from_onnx.convert(
            self.onnx(), self.stage / files[0], precision, self.calibration
        )
        return Artefact("openvino", files, precision, {}, output, {"execution_type": execution})


def examine(
    candidate: Candidate, subject: Subject, stage: Path, record: Passport, reference: Reference
) -> None:
    """Loads a built candidate in the runtime that will serve it and puts it through the gate."""
    assert candidate.artefact is not None
    try:
        runtime = make(stage, record, candidate.artefact, threads=1)
        runtime.activate()
        candidate.gate = check(subject, runtime, candidate.precision, reference)
    except KitError as e:
        candidate.error = str(e)
        return
    except Exception as e:  # runtimes raise many types for models that they do not take
        reason = (str(e).strip().splitlines() or [type(e).__name__])[-1]
        candidate.error = f"{candidate.backend} does not run this model ({reason})"
        return
    candidate.runtime = runtime
    found = candidate.gate.precision_found
    candidate.artefact = Artefact(**{**candidate.artefact.__dict__, "precision_found": found})


def measure(candidates: Sequence[Candidate], given: Arrays) -> None:
    """Times the candidates that passed, in turns: one thread, batch 1, model call only."""
    times: dict[int, list[float]] = {i: [] for i, c in enumerate(candidates) if c.passed}
    for _ in range(ROUNDS):
        for i, taken in times.items():
            runtime = candidates[i].runtime
            assert runtime is not None
            for _ in range(CALLS):
                begin = time.perf_counter()
                runtime.infer(given)
                taken.append((time.perf_counter() - begin) * 1e3)
    for i, taken in times.items():
        candidates[i].ms = median(taken)
