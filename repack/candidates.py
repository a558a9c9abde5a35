"""The forms that a model may take here: built, loaded, put through the gate, and timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from handlers.errors import KitError
from handlers.passport import Artefact
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from repack import segmentation
from repack.converters import (
    PRECISIONS,
    onnx_from_module,
    openvino_from_onnx,
    suppression,
    torchscript_from_module,
)
from repack.progress import step
from repack.subjects import Arrays, Subject
from repack.verify import GateFailed, GateResult, Reference, check

ROUNDS, CALLS = 6, 4
"""Candidates are timed in turns, so that a slow moment of the machine meets all of them."""


LITTLE = 256_000_000
"""Bytes of free disk below which that may be why a conversion failed: libraries do not say so."""


@dataclass(frozen=True)
class Proof:
    """A candidate that was built, loaded and compared.

    Attributes:
        artefact: with the precision that was found.
        gate: what the comparison saw.
        runtime: the artefact, loaded in the runtime that will serve it.
    """

    artefact: Artefact
    gate: GateResult
    runtime: Runtime


@dataclass
class Candidate:
    """One backend and precision, and what became of it.

    Attributes:
        proof: None where it could not be built or loaded.
        error: why not, in one line.
        ms: median milliseconds of one call, batch 1, one thread; 0 where not measured.
    """

    backend: str
    precision: str
    proof: Proof | None = None
    error: str = ""
    ms: float = 0.0

    @property
    def form(self) -> tuple[str, str]:
        """Backend and precision."""
        return self.backend, self.precision

    @property
    def passed(self) -> bool:
        return self.proof is not None and self.proof.gate.passed

    @property
    def verdict(self) -> str:
        if self.proof is None:
            return self.error
        return "passed" if self.passed else "; ".join(self.proof.gate.failures)

    def proven(self) -> Proof:
        """The proof of a candidate that passed.

        Raises:
            GateFailed: it was compared and differs.
            KitError: it could not be built or loaded.
        """
        if self.proof is None:
            raise KitError(f"{self.backend} {self.precision}: {self.error}")
        if not self.passed:
            raise GateFailed(f"{self.backend} {self.precision}: {self.verdict}", self.proof.gate)
        return self.proof

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "precision": self.precision,
            "verdict": self.verdict,
            "ms": round(self.ms, 2) or None,
            "gate": self.proof.gate.to_dict() if self.proof else None,
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

    def build(self, candidate: Candidate) -> Artefact:
        """Converts the model into the candidate's form, in a folder of its own.

        Raises:
            KitError: the model has something that the form cannot hold.
        """
        folder = f"{candidate.backend}-{candidate.precision}"
        (self.stage / folder).mkdir(parents=True)
        return self._artefact(candidate, folder)

    @cached_property
    def onnx(self) -> Path | KitError:
        """The model as ONNX, with suppression at its end where it is a detector; or why not."""
        subject = self.subject
        if subject.module is None and subject.task != "segmentation":
            return subject.source.path
        folder = self.stage / "onnx"
        folder.mkdir(parents=True)
        if subject.module is None:
            return segmentation.renamed(subject.source.path, folder / "named.onnx")
        exported, ended = folder / "exported.onnx", folder / "detector.onnx"
        try:
            onnx_from_module.convert(subject, exported)
        except KitError as e:
            return e
        if subject.raw is None:
            return exported
        s, where = subject.settings, subject.raw[1]
        suppression.append(exported, ended, where, s["confidence"], s["iou"], s["max_detections"])
        return ended

    def _artefact(self, candidate: Candidate, folder: str) -> Artefact:
        precision, detector = candidate.precision, self.subject.task == "detection"
        output = "detections" if detector else "tensors"
        if candidate.backend == "torchscript":
            file = f"{folder}/model.pt"
            torchscript_from_module.convert(self.subject, self.stage / file)
            names = [s.name for s in self.subject.outputs]
            output = "boxes" if detector else "tensors"
            return Artefact("torchscript", (file,), precision, {}, output, {"outputs": names})
        if isinstance(self.onnx, KitError):
            raise self.onnx
        if candidate.backend == "onnxruntime":
            file = f"{folder}/model.onnx"
            # Loaded and saved, because weights may lie in files beside the source.
            onnx.save(onnx.load(self.onnx), self.stage / file)
            return Artefact("onnxruntime", (file,), precision, {}, output)
        files = (f"{folder}/model.xml", f"{folder}/model.bin")
        execution = openvino_from_onnx.convert(
            self.onnx, self.stage / files[0], precision, self.calibration
        )
        return Artefact("openvino", files, precision, {}, output, {"execution_type": execution})


def try_one(candidate: Candidate, workshop: Workshop, reference: Reference) -> None:
    """Builds a candidate, loads it in the runtime that will serve it, and compares it.

    Sets ``candidate.proof``, or ``candidate.error`` where it could not be built or loaded.
    """
    subject, name = workshop.subject, f"{candidate.backend} {candidate.precision}"
    try:
        with step(f"converting to {name}"):
            artefact = workshop.build(candidate)
        with step(f"comparing {name} with the original"):
            runtime = make(workshop.stage, subject.inputs, artefact, threads=1)
            runtime.activate()
            gate = check(subject, runtime, candidate.precision, reference)
    except KitError as e:
        candidate.error = str(e)
    except Exception as e:  # runtimes raise many types for models that they do not take
        reason = (str(e).strip().splitlines() or [type(e).__name__])[-1]
        free = shutil.disk_usage(workshop.stage).free
        if free < LITTLE:
            reason += f"; {workshop.stage} has only {free / 1e6:.1f} MB free"
        candidate.error = f"does not run this model ({reason})"
    else:
        proven = replace(artefact, precision_found=gate.precision_found)
        candidate.proof = Proof(proven, gate, runtime)


def measure(candidates: Sequence[Candidate], given: Arrays) -> None:
    """Times the candidates that passed, in turns: one thread, batch 1, model call only."""
    passed = [c for c in candidates if c.passed]
    times: list[list[float]] = [[] for _ in passed]
    for _ in range(ROUNDS):
        for candidate, taken in zip(passed, times, strict=True):
            runtime = candidate.proven().runtime
            for _ in range(CALLS):
                begin = time.perf_counter()
                runtime.infer(given)
                taken.append((time.perf_counter() - begin) * 1e3)
    for candidate, taken in zip(passed, times, strict=True):
        candidate.ms = median(taken)
