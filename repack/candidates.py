"""Candidates: which artefacts are tried here; built, loaded, put through the gate, and timed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from handlers import heads
from handlers.artefact import Artefact
from handlers.errors import ArchiveError, KitError
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from handlers.runtimes.device import DeviceRuntime
from repack import archive, packing
from repack.backends import BACKENDS, named
from repack.backends.base import Backend
from repack.backends.conversion import Conversion
from repack.gate import GateFailed, GateResult, Reference, check
from repack.model import Arrays, Model
from repack.onnx import nodes
from repack.options import GpuOptions
from repack.progress import say, step

ROUNDS, CALLS = 6, 4
"""Candidates are timed in turns, so that a slow moment of the machine meets all of them."""

LITTLE = 256_000_000
"""Bytes of free disk below which that may be why a conversion failed: libraries do not say so."""

GIVEN = "given"
"""``Candidate.via`` of what the user built."""


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
        via: how the artefact is made, where there are several ways; else "".
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
    def name(self) -> str:
        """For tables: "tensorrt/onnx"."""
        return f"{self.backend}/{self.via}" if self.via else self.backend

    @property
    def passed(self) -> bool:
        return self.proof is not None and bool(self.proof.gate.passed)

    @property
    def usable(self) -> bool:
        """Passed, or there was nothing to compare it by, which its verdict then says."""
        return self.proof is not None and not self.proof.gate.failures

    @property
    def verdict(self) -> str:
        if self.proof is None:
            return self.error
        gate = self.proof.gate
        return gate.note or ("passed" if gate.passed else "; ".join(gate.failures))

    def proven(self) -> Proof:
        """The proof of a candidate that passed, or that there was nothing to compare with.

        Raises:
            GateFailed: it was compared and differs.
            KitError: it could not be built or loaded.
        """
        if self.proof is None:
            raise KitError(f"{self.name} {self.precision}: {self.error}")
        if self.proof.gate.failures:
            raise GateFailed(f"{self.name} {self.precision}: {self.verdict}", self.proof.gate)
        return self.proof

    def same_artefact(self, other: Candidate) -> bool:
        """Whether both are for one backend and precision, whatever the way."""
        return (self.backend, self.precision) == (other.backend, other.precision)

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


def asked(
    model: Model, backend: str, precision: str, calibrated: bool, gpu: GpuOptions
) -> list[Candidate]:
    """The candidates for what the user asked, on this machine.

    Args:
        backend: a key of ``BACKENDS``; or "auto" for every one that this machine is for: the GPU's
            where there is one, else the others.
        precision: one that a backend offers, or "auto" for every one that pays.
        calibrated: whether there is anything to calibrate int8 on.

    Raises:
        KitError: an unknown backend, or a combination that does not exist here.
    """
    if model.built is not None:
        built = model.built.artefact
        return [Candidate(built.runtime, built.precision_asked, GIVEN)]
    tried = _of_this_machine() if backend == "auto" else [named(backend)]
    found, reasons = [], []
    for one in tried:
        wanted = one.auto if precision == "auto" else {precision} & {*one.precisions}
        reason = (one.unavailable() or one.takes(model)) if wanted else None
        if reason is not None:
            reasons.append(reason + ("" if backend == "auto" else ": use --backend auto"))
            continue
        for p in wanted:
            if p == "int8" and precision == "auto" and not calibrated:
                continue
            lack = one.lacks(p)
            if lack is None:
                found += [Candidate(one.name, p, via) for via in one.routes(model, gpu, p)]
                continue
            reasons.append(lack + ("" if precision == "auto" else ": use --precision auto"))
            if backend == "auto" or precision == "auto":
                say(f"    note: {one.name} {p} is left out: {lack}")
    if found:
        return found
    if reasons:
        raise KitError(f"--backend {backend} --precision {precision}: {reasons[0]}")
    offered = "; ".join(f"{b.name} offers {', '.join(b.precisions)}" for b in tried)
    raise KitError(
        f"--backend {backend} --precision {precision}: no backend builds that from "
        f"{model.source.called} here; {offered}"
    )


def _of_this_machine() -> list[Backend]:
    able = {b.device for b in BACKENDS.values() if b.device == "gpu" and not b.unavailable()}
    device = "gpu" if able else "cpu"
    return [b for b in BACKENDS.values() if b.device == device]


def superfluous(candidate: Candidate, tried: Sequence[Candidate], gpu: GpuOptions) -> bool:
    """Whether the artefact was made another way already, and the user left the way open."""
    return gpu.via == "auto" and any(c.same_artefact(candidate) and c.usable for c in tried)


def try_one(candidate: Candidate, conversion: Conversion, reference: Reference | None) -> None:
    """Builds a candidate, loads it in the runtime that will serve it, and compares it.

    Sets ``candidate.proof``, or ``candidate.error`` where it could not be built or loaded.

    Args:
        reference: None where there is no original to compare with.
    """
    model, name = conversion.model, f"{candidate.name} {candidate.precision}"
    backend = named(candidate.backend)
    try:
        with step(f"converting to {name}"):
            artefact = _build(candidate, backend, conversion)
        with step(f"comparing {name} with the original"):
            foreign = packing.foreign_runtimes([artefact.runtime])
            for told in foreign.values():
                archive.stage_module(conversion.stage, told)
            ends = heads.of(model.settings)
            runtime = make(
                conversion.stage, model.inputs, artefact, threads=1, head=ends, foreign=foreign
            )
            runtime.activate()
            gate = check(model, backend, runtime, candidate.precision, reference)
    except KitError as e:
        candidate.error = str(e)
    except Exception as e:  # runtimes raise many types for models that they do not take
        candidate.error = f"does not run this model ({_reason(e, backend, conversion)})"
    else:
        proven = replace(artefact, precision_found=gate.precision_found)
        candidate.proof = Proof(proven, gate, runtime)
    free = shutil.disk_usage(conversion.stage).free
    if candidate.error and free < LITTLE:
        candidate.error += f"; {conversion.stage} has only {free / 1e6:.1f} MB free"


def _build(candidate: Candidate, backend: Backend, conversion: Conversion) -> Artefact:
    folder = "-".join(filter(None, (candidate.backend, candidate.via, candidate.precision)))
    (conversion.stage / folder).mkdir(parents=True)
    built = conversion.model.built
    if candidate.via == GIVEN and built is not None:
        file = f"{folder}/{built.artefact.files[0]}"
        shutil.copyfile(built.file, conversion.stage / file)
        return replace(built.artefact, files=(file,))
    artefact = backend.build(conversion, candidate.precision, candidate.via, folder)
    if artefact.runtime != backend.name:
        raise ArchiveError(
            f"backend {backend.name!r} built an artefact for runtime {artefact.runtime!r}: refused"
        )
    return artefact


def _reason(error: Exception, backend: Backend, conversion: Conversion) -> str:
    """The error's last line, with the ONNX node that it names where the artefact is made of it."""
    if not backend.from_onnx or isinstance(conversion.onnx, KitError):
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return nodes.reason(conversion.onnx, error)


def measure(candidates: Sequence[Candidate], given: Arrays) -> None:
    """Times the candidates that passed: model call only.

    On a GPU by replays of its graph at the smallest and the largest batch; elsewhere in turns, one
    thread, batch 1.
    """
    for c in candidates:
        runtime = c.proof.runtime if c.proof is not None and c.usable else None
        if isinstance(runtime, DeviceRuntime) and runtime.batches:
            most = runtime.batches[-1]
            c.ms, c.per_item_ms = runtime.time(runtime.batches[0]), runtime.time(most) / most
    passed = [c for c in candidates if c.usable and not c.ms]
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


def advice(failed: Candidate, portable: Candidate) -> str:
    """What kept the asked candidate from running, and the one that does run and passed the gate."""
    return (
        f"{failed.backend} {failed.precision}: {failed.error}; {portable.backend} "
        f"{portable.precision} takes this model and passed the gate: use --backend "
        f"{portable.backend}, or --backend auto to try all"
    )
