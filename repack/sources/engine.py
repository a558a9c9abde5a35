"""TensorRT engines that the user built: what one says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handlers.artefact import TensorRTOptions
from handlers.engines import build, versions
from handlers.errors import KitError, RuntimeUnfit
from handlers.passport import TensorSpec
from repack.sources.source import EngineFile, Source, sha256_of

MAGIC = b"ftrt"
"""How TensorRT's engine files begin."""


def holds(path: Path) -> bool:
    """Whether a file is an engine, by its first bytes, else by its suffix."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC or path.suffix in (".engine", ".plan")


def load(path: Path) -> Source:
    """An engine as a source: raw tensors in and out, and no original.

    Raises:
        KitError: as ``read``.
    """
    told = read(path)
    return Source(None, "engine", path.stem, (), path, sha256_of(path), "tensors", engine=told)


def read(path: Path) -> EngineFile:
    """Asks an engine for its inputs and outputs.

    An engine is executable code: deserialising one runs it. Another version's is refused unread.

    Raises:
        KitError: no GPU or TensorRT here, or an engine that this TensorRT does not take.
    """
    trt = versions.library()
    import torch

    if not torch.cuda.is_available():
        raise RuntimeUnfit(f"{path}: an engine needs an NVIDIA GPU, and this machine has none")
    plan = path.read_bytes()
    if plan[:4] != MAGIC:
        raise KitError(
            f"{path}: starts with {plan[:4].hex(' ') or 'nothing'}; a TensorRT engine starts with "
            f"{MAGIC.hex(' ')}"
        )
    version = versions.foreign(plan[:64], trt.__version__)
    if version:
        raise KitError(
            f"{path}: written by TensorRT {version}, here is {trt.__version__}: build it anew"
        )
    log = build.Log(trt)
    runtime = trt.Runtime(log.sink)  # outlives the engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise KitError(
            f"{path}: TensorRT {trt.__version__} refuses it ({log.reason('no reason given')})"
        )
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    entries = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
    kinds = {name: dtype(trt, engine.get_tensor_dtype(name)) for name in names}
    specs = {n: TensorSpec(n, kinds[n], axes(engine.get_tensor_shape(n))) for n in names}
    profile = {
        n: (tuple(low), tuple(usual), tuple(high))
        for n in entries
        for low, usual, high in [engine.get_tensor_profile_shape(n, 0)]
    }
    results = [n for n in names if n not in entries]
    return EngineFile(
        tuple(specs[n] for n in entries),
        tuple(specs[n] for n in results),
        TensorRTOptions(
            outputs=tuple(results),
            built=versions.machine(trt, torch, 0),
            engines=(profile,),
            via="given",
        ),
    )


def dtype(trt: Any, kind: Any) -> str:
    """NumPy's name for an engine's element type."""
    names = {trt.int32: "int32", trt.int8: "int8", trt.uint8: "uint8", trt.bool: "bool"}
    return names.get(kind, "float32")


def axes(shape: Any) -> tuple[int | str, ...]:
    """An engine's shape as a passport's: -1 is a free axis."""
    return tuple(int(n) if n >= 0 else ("batch" if i == 0 else "any") for i, n in enumerate(shape))
