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

from handlers import artefact as artefacts
from handlers import head
from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from handlers.runtimes.device import DeviceRuntime
from repack import refusals
from repack.backends import openvino as openvino_from_onnx
from repack.backends import torchscript as torchscript_from_module
from repack.backends.gpu import PRECISIONS as GPU_PRECISIONS
from repack.backends.gpu import GpuWorkshop
from repack.cli_gpu import GpuOptions
from repack.gate import GateFailed, GateResult, Reference, check
from repack.model import Arrays, Subject
from repack.onnx import export as onnx_from_module
from repack.onnx import suppression
from repack.progress import step

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
        via: the road to a TensorRT engine; "" for other backends.
        proof: None where it could not be built or loaded.
        error: why not, in one line.
        ms: median milliseconds of one call, the smallest batch, one thread; 0 where not measured.
        per_item_ms: the same per item at the largest batch that was built.
    """

    backend: str
    precision: str
    via: str = ""
    proof: Proof | None = None
    error: str = ""
    ms: float = 0.0
    per_item_ms: float = 0.0

    @property
    def form(self) -> tuple[str, str]:
        """Backend and precision."""
        return self.backend, self.precision

    @property
    def name(self) -> str:
        """For tables: "tensorrt/onnx"."""
        return f"{self.backend}/{self.via}" if self.via else self.backend

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
            raise KitError(f"{self.name} {self.precision}: {self.error}")
        if not self.passed:
            raise GateFailed(f"{self.name} {self.precision}: {self.verdict}", self.proof.gate)
        return self.proof

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "via": self.via or None,
            "precision": self.precision,
            "verdict": self.verdict,
            "ms": round(self.ms, 3) or None,
            "per_item_ms": round(self.per_item_ms, 4) or None,
            "gate": self.proof.gate.to_dict() if self.proof else None,
        }


class Workshop:
    """Builds candidates in a staging folder; shared steps (the ONNX export) run once."""

    def __init__(
        self,
        subject: Subject,
        stage: Path,
        calibration: Sequence[Arrays],
        gpu: GpuOptions | None = None,
    ):
        self.subject = subject
        self.gpu_options = gpu or GpuOptions()
        self.stage = stage
        self.calibration = calibration

    def build(self, candidate: Candidate) -> Artefact:
        """Converts the model into the candidate's form, in a folder of its own.

        Raises:
            KitError: the model has something that the form cannot hold.
        """
        folder = "-".join(filter(None, (candidate.backend, candidate.via, candidate.precision)))
        (self.stage / folder).mkdir(parents=True)
        return self._artefact(candidate, folder)

    @cached_property
    def gpu(self) -> GpuWorkshop:
        """What builds the GPU's forms."""
        graph = self.onnx if self.subject.module is None else None
        if isinstance(graph, KitError):
            raise graph
        return GpuWorkshop(self.subject, graph, self.stage, self.calibration, self.gpu_options)

    @cached_property
    def onnx(self) -> Path | KitError:
        """The model as ONNX, with suppression at its end where it is a detector; or why not."""
        subject = self.subject
        if subject.module is None and subject.write_onnx is None:
            return subject.source.graph
        folder = self.stage / "onnx"
        folder.mkdir(parents=True)
        if subject.write_onnx is not None:
            subject.write_onnx(folder / "changed.onnx")
            return folder / "changed.onnx"
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
        if candidate.backend in GPU_PRECISIONS:
            return self.gpu.build(candidate.backend, candidate.via, candidate.precision, folder)
        precision, detector = candidate.precision, self.subject.task == "detection"
        output = "detections" if detector else "tensors"
        if candidate.backend == "torchscript":
            file = f"{folder}/model.pt"
            torchscript_from_module.convert(self.subject, self.stage / file)
            names = [s.name for s in self.subject.outputs]
            output = "boxes" if detector else "tensors"
            named = artefacts.TorchScriptOptions(outputs=tuple(names))
            return Artefact("torchscript", (file,), precision, {}, output, named)
        if isinstance(self.onnx, KitError):
            raise self.onnx
        if candidate.backend == "onnxruntime":
            file = f"{folder}/model.onnx"
            # Loaded and saved, because weights may lie in files beside the source.
            onnx.save(onnx.load(self.onnx), self.stage / file)
            none = artefacts.OnnxRuntimeOptions()
            return Artefact("onnxruntime", (file,), precision, {}, output, none)
        files = (f"{folder}/model.xml", f"{folder}/model.bin")
        execution = openvino_from_onnx.convert(
            self.onnx, self.stage / files[0], precision, self.calibration
        )
        options = artefacts.OpenVinoOptions(execution_type=execution)
        return Artefact("openvino", files, precision, {}, output, options)


def try_one(candidate: Candidate, workshop: Workshop, reference: Reference) -> None:
    """Builds a candidate, loads it in the runtime that will serve it, and compares it.

    Sets ``candidate.proof``, or ``candidate.error`` where it could not be built or loaded.
    """
    subject, name = workshop.subject, f"{candidate.name} {candidate.precision}"
    try:
        with step(f"converting to {name}"):
            artefact = workshop.build(candidate)
        with step(f"comparing {name} with the original"):
            ends = head.of(subject.settings)
            runtime = make(workshop.stage, subject.inputs, artefact, threads=1, head=ends)
            runtime.activate()
            gate = check(subject, runtime, candidate.precision, reference)
    except KitError as e:
        candidate.error = str(e)
    except Exception as e:  # runtimes raise many types for models that they do not take
        candidate.error = f"does not run this model ({refusals.reason(e, candidate, workshop)})"
    else:
        proven = replace(artefact, precision_found=gate.precision_found)
        candidate.proof = Proof(proven, gate, runtime)
    free = shutil.disk_usage(workshop.stage).free
    if candidate.error and free < LITTLE:
        candidate.error += f"; {workshop.stage} has only {free / 1e6:.1f} MB free"


def measure(candidates: Sequence[Candidate], given: Arrays) -> None:
    """Times the candidates that passed: model call only.

    On a GPU by replays of its graph at the smallest and the largest batch; elsewhere in turns, one
    thread, batch 1.
    """
    for c in candidates:
        runtime = c.proof.runtime if c.proof is not None and c.passed else None
        if isinstance(runtime, DeviceRuntime) and runtime.batches:
            most = runtime.batches[-1]
            c.ms, c.per_item_ms = runtime.time(runtime.batches[0]), runtime.time(most) / most
    passed = [c for c in candidates if c.passed and not c.ms]
    times: list[list[float]] = [[] for _ in passed]
    for _ in range(ROUNDS):
        for candidate, taken in zip(passed, times, strict=True):
            runtime = candidate.proven().runtime
            for _ in range(CALLS):
                begin = time.perf_counter()
                runtime.infer(given)
                taken.append((time.perf_counter() - begin) * 1e3)
    for candidate, taken in zip(passed, times, strict=True):
        candidate.ms = candidate.per_item_ms = median(taken)
