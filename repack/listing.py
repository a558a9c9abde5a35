"""Which forms are tried for what the user asked, on this machine."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.errors import KitError
from repack.backends import PRECISIONS, openvino
from repack.backends import gpu as gpu_artefacts
from repack.backends.gpu import AUTO
from repack.backends.gpu import PRECISIONS as GPU_PRECISIONS
from repack.candidates import Candidate
from repack.cli_gpu import GpuOptions
from repack.model import Subject
from repack.progress import say


def listed(
    subject: Subject, backend: str, precision: str, calibrated: bool, gpu: GpuOptions
) -> list[Candidate]:
    """The candidates for what the user asked.

    Args:
        backend: a key of ``PRECISIONS`` or of the GPU's; or "auto" for every one that this machine
            is for: the GPU's where there is one, else the others.
        precision: "f32", "f16", "bf16", "int8", "best", or "auto" for every one that pays.
        calibrated: whether there is anything to calibrate int8 on.

    Raises:
        KitError: a combination that does not exist.
    """
    if backend in GPU_PRECISIONS or (backend == "auto" and gpu_artefacts.available()):
        return _listed_gpu(subject, backend, precision, calibrated, gpu)
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
    return _runnable(found, backend, precision)


def _runnable(asked: Sequence[Candidate], backend: str, precision: str) -> list[Candidate]:
    """Those that this machine can run; a line for each that is left out."""
    lacking = {c.form: openvino.lacks(c.precision) for c in asked if c.backend == "openvino"}
    found = [c for c in asked if not lacking.get(c.form)]
    why = {form: reason for form, reason in lacking.items() if reason}
    if not found:
        raise KitError(
            f"--backend {backend} --precision {precision}: {'; '.join(why.values())}: "
            "use --backend auto --precision auto for what this machine runs"
        )
    for form, reason in why.items():
        say(f"    note: {' '.join(form)} is left out: {reason}")
    return found


def _listed_gpu(
    subject: Subject, backend: str, precision: str, calibrated: bool, gpu: GpuOptions
) -> list[Candidate]:
    """The same for the backends on a GPU."""
    if not gpu_artefacts.available():
        raise KitError(
            f"--backend {backend} needs an NVIDIA GPU, and this machine has none: "
            "use --backend auto"
        )
    found = []
    for name in [b for b in GPU_PRECISIONS if backend in ("auto", b)]:
        if subject.module is None and name != "tensorrt":
            continue
        asked = AUTO[name] if precision == "auto" else (precision,)
        for p in asked:
            if p in GPU_PRECISIONS[name] and (p != "int8" or calibrated or precision == "int8"):
                vias = gpu_artefacts.routes(subject, gpu, p) if name == "tensorrt" else [""]
                found += [Candidate(name, p, via) for via in vias]
    if not found:
        have = "; ".join(f"{b}: {', '.join(p)}" for b, p in GPU_PRECISIONS.items())
        raise KitError(
            f"--backend {backend} --precision {precision} is not to be had for a "
            f"{subject.source.family} source on a GPU; there is {have}"
        )
    return found


def superfluous(candidate: Candidate, tried: Sequence[Candidate], gpu: GpuOptions) -> bool:
    """Whether another road has already led to this engine, and the user left the road open."""
    return gpu.via == "auto" and any(c.form == candidate.form and c.passed for c in tried)
