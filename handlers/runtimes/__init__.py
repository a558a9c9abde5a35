"""The programs that run a model, behind one interface.

A runtime is made from an archive's folder without touching the device, and loads the model when
it is activated. Its library is imported only then: a worker holds just the one it uses.
"""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from pathlib import Path

from handlers.errors import ArchiveError, RuntimeUnfit
from handlers.passport import Artefact, Passport, TensorSpec
from handlers.runtimes.base import Runtime

logger = logging.getLogger(__name__)

RUNTIMES = {
    "torchscript": "handlers.runtimes.torchscript:TorchScript",
    "onnxruntime": "handlers.runtimes.onnxruntime_:OnnxRuntime",
    "openvino": "handlers.runtimes.openvino_:OpenVino",
    "tensorrt": "handlers.runtimes.tensorrt_:TensorRT",
    "aotinductor": "handlers.runtimes.aotinductor:AotInductor",
    "torchscript-cuda": "handlers.runtimes.torchscript_cuda:TorchScriptCuda",
}

ANCHORS = "anchors"
"""Option of a detector whose pictures are decoded, and its boxes found, on a GPU."""


@dataclass(frozen=True)
class Loaded:
    """An activated runtime, the artefact it runs, and why it is not the accelerated one, if so."""

    runtime: Runtime
    artefact: Artefact
    fallback: str | None = None


def make(
    folder: Path,
    inputs: tuple[TensorSpec, ...],
    artefact: Artefact,
    threads: int,
    gpu: int | None = None,
) -> Runtime:
    """The runtime for one artefact, not yet activated.

    Args:
        gpu: number of the GPU to use, where the runtime uses one; None for the first.

    Raises:
        ArchiveError: a runtime that this kit does not know.
    """
    if artefact.runtime not in RUNTIMES:
        raise ArchiveError(
            f"the archive asks for runtime {artefact.runtime!r}; known: {', '.join(RUNTIMES)}"
        )
    module, _, name = RUNTIMES[artefact.runtime].partition(":")
    runtime: type[Runtime] = getattr(importlib.import_module(module), name)
    return runtime(folder, artefact, inputs, threads, gpu)


def load(
    folder: Path,
    passport: Passport,
    wanted: str,
    threads: int,
    gpu: int | None = None,
    shared: bool = False,
) -> Loaded:
    """Activates the wanted artefact, or the portable one where this machine cannot run that.

    Args:
        wanted: a key of ``passport.artefacts``.
        threads: how many threads the runtime may use.
        gpu: number of the GPU that the server gave this worker, if any.
        shared: a detector on a GPU runs in a process that all workers share.

    Raises:
        ArchiveError: no such artefact.
        RuntimeUnfit: its library or its GPU is missing, and there is no portable module.
    """
    if wanted not in passport.artefacts:
        raise ArchiveError(f"no artefact {wanted!r}; it holds {', '.join(passport.artefacts)}")
    artefact = passport.artefacts[wanted]
    try:
        runtime = make(folder, passport.inputs, artefact, threads, gpu)
        if shared and ANCHORS in artefact.options:
            runtime = _shared(runtime, passport, wanted)
        else:
            runtime.activate()
    except RuntimeUnfit as e:
        portable = passport.artefacts.get("portable")
        if portable is None or portable is artefact:
            raise
        runtime = make(folder, passport.inputs, portable, threads)
        runtime.activate()
        return Loaded(runtime, portable, f"{e}; the portable {runtime.name} module serves instead")
    if runtime.note:
        return Loaded(runtime, artefact, runtime.note)
    asked = artefact.precision_found.get("label", runtime.precision)
    if runtime.precision != asked:
        note = f"packed as {asked}, but this machine runs it in {runtime.precision}"
        return Loaded(runtime, artefact, note)
    return Loaded(runtime, artefact)


def _shared(own: Runtime, passport: Passport, wanted: str) -> Runtime:
    """The runtime activated in a process for all workers, or here where there can be none."""
    from handlers.gpu.server.starting import NoHub
    from handlers.runtimes.shared import Shared

    try:
        runtime = Shared(own, passport, wanted)
        runtime.activate()
    except NoHub as e:
        logger.warning("this worker holds the model on the GPU itself: %s", e)
        own.activate()
        return own
    return runtime
