"""An engine that the user built already: packed as it is, or compared with its original first."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handlers.artefact import Artefact, Shape, TensorRTOptions
from handlers.engines import build, versions
from handlers.errors import KitError, RuntimeUnfit
from handlers.passport import Passport, TensorSpec
from handlers.runtimes import make
from handlers.runtimes.base import Runtime
from repack import model as subjects
from repack import packing, report, samples, sources
from repack.backends import precision
from repack.candidates import Candidate, Proof, Workshop
from repack.gate import GateResult, Reference, check
from repack.model import Subject
from repack.progress import say, step
from repack.sources import Source
from repack.sources.source import sha256_of

if TYPE_CHECKING:
    from repack.cli import Options

MAGIC = b"ftrt"
"""How TensorRT's engine files begin."""

NOT_PROVEN = "not proven: an engine holds no original to compare with; name it with --original FILE"

FOLDER = "tensorrt-given"


def holds(path: Path) -> bool:
    """Whether a file is an engine, by its first bytes, else by its suffix."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == MAGIC or path.suffix in (".engine", ".plan")


@dataclass(frozen=True)
class Engine:
    """What an engine file says about itself.

    Attributes:
        inputs, outputs: 16-bit floats as float32, which the runtime converts.
        options: of the artefact.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: TensorRTOptions


def read(path: Path) -> Engine:
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
    profile = {n: _profile(engine, n) for n in entries}
    results = [n for n in names if n not in entries]
    return Engine(
        tuple(specs[n] for n in entries),
        tuple(specs[n] for n in results),
        TensorRTOptions(
            outputs=tuple(results),
            built=versions.machine(trt, torch, 0),
            engines=(profile,),
            via="given",
        ),
    )


def _profile(engine: Any, name: str) -> tuple[Shape, Shape, Shape]:
    least, usual, most = (tuple(s) for s in engine.get_tensor_profile_shape(name, 0))
    return least, usual, most


def dtype(trt: Any, kind: Any) -> str:
    """NumPy's name for an engine's element type."""
    names = {trt.int32: "int32", trt.int8: "int8", trt.uint8: "uint8", trt.bool: "bool"}
    return names.get(kind, "float32")


def axes(shape: Any) -> tuple[int | str, ...]:
    """An engine's shape as a passport's: -1 is a free axis."""
    return tuple(int(n) if n >= 0 else ("batch" if i == 0 else "any") for i, n in enumerate(shape))


def repack(options: Options) -> Path:
    """Packs the engine of ``--weights``; returns the archive's path.

    Raises:
        KitError: the engine or its original cannot be used.
        GateFailed: the engine does not answer like its original.
    """
    from repack import pipeline as flow

    with step(f"reading the engine {options.weights}"):
        told = read(options.weights)
    source = Source(
        None, "engine", options.weights.stem, (), options.weights,
        sha256_of(options.weights), "tensors",
    )  # fmt: skip
    packing.require_writable(options.model_store)
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp:
        work, stage = Path(tmp) / "work", Path(tmp) / "stage"
        (work / FOLDER).mkdir(parents=True)
        file = f"{FOLDER}/model.plan"
        shutil.copyfile(options.weights, work / file)
        artefact = Artefact("tensorrt", (file,), "best", {}, "tensors", told.options)
        runtime = make(work, told.inputs, artefact, threads=1)
        runtime.activate()
        found = precision.found(runtime)
        artefact = replace(artefact, precision_asked=_label(found), precision_found=found)
        if options.original is None:
            subject = Subject(source, told.inputs, told.outputs, None, lambda given: {})
            target = _unproven(options, subject, artefact, runtime, work, stage)
        else:
            subject = original(options, told)
            drawn = subjects.within(subject, told.options.engines[0])
            reference = Reference.make(drawn, _samples(options, subject))
            candidate = Candidate("tensorrt", artefact.precision_asked, "given")
            gate = check(subject, runtime, artefact.precision_asked, reference)
            candidate.proof = Proof(artefact, gate, runtime)
            workshop = Workshop(subject, work, [], options.gpu)
            portable = flow.prove_portable(workshop, reference)[-1]
            chosen = flow.choose([candidate], reference, portable)
            record = flow.fill(stage, workshop, chosen, portable, options)
            example = packing.example_input(drawn, reference.samples, Path(tmp))
            with step(f"packing {options.name}.mar and trying it alone"):
                target = packing.write(stage, record, options.model_store, example)
            report.write(
                target, Passport.read(stage), options, workshop, reference, [candidate], chosen
            )
    return target


def original(options: Options, told: Engine) -> Subject:
    """The file of ``--original``, its inputs and outputs named as the engine's.

    Raises:
        KitError: it has other inputs or outputs than the engine.
    """
    if options.original is None:
        raise KitError("--original names no file")
    source = sources.load(options.original, options.network)
    source = replace(source, task="tensors")
    shapes: Mapping[str, tuple[int | str, ...]] = {s.name: s.shape for s in told.inputs}
    if source.module is not None:
        subject = subjects.tensors(source, shapes)
        names = [s.name for s in told.outputs]
        if len(names) != len(subject.outputs):
            raise KitError(
                f"--original {options.original}: {len(subject.outputs)} outputs, the engine has "
                f"{', '.join(names)}"
            )
        return _renamed(subject, names)
    subject = subjects.tensors(source, {})
    for what, own, theirs in (
        ("inputs", told.inputs, subject.inputs),
        ("outputs", told.outputs, subject.outputs),
    ):
        if {s.name for s in own} != {s.name for s in theirs}:
            raise KitError(
                f"--original {options.original}: {what} {', '.join(s.name for s in theirs)}, the "
                f"engine's are {', '.join(s.name for s in own)}"
            )
    ours = {s.name: s for s in told.inputs}
    return replace(subject, inputs=tuple(ours[s.name] for s in subject.inputs))


def _renamed(subject: Subject, names: list[str]) -> Subject:
    ask = subject.original

    def renamed(given: subjects.Arrays) -> subjects.Arrays:
        return dict(zip(names, ask(given).values(), strict=True))

    outputs = tuple(replace(s, name=n) for s, n in zip(subject.outputs, names, strict=True))
    return replace(subject, outputs=outputs, original=renamed)


def _samples(options: Options, subject: Subject) -> list[samples.Sample]:
    return samples.read(options.samples, subject, "--samples") if options.samples else []


def _label(found: dict[str, Any]) -> str:
    """The precision that the engine is judged and shown as."""
    label = str(found["label"])
    known = label in ("f32", "f16", "int8")
    return label if known and precision.shortfall(label, found) is None else "best"


def _unproven(
    options: Options,
    subject: Subject,
    artefact: Artefact,
    runtime: Runtime,
    work: Path,
    stage: Path,
) -> Path:
    """Packs the engine alone, and says everywhere that nobody compared it."""
    say(f"    warning: {NOT_PROVEN}")
    given = subjects.within(subject, artefact.options.engines[0]).random_inputs(seed=2)
    runtime.infer(given)
    (stage / FOLDER).mkdir(parents=True)
    (work / artefact.files[0]).replace(stage / artefact.files[0])
    seen = GateResult(artefact.precision_asked, artefact.precision_found)
    gate = {**seen.to_dict(), "passed": None, "note": NOT_PROVEN}
    record = packing.passport(
        subject, options.name, options.version, {"accelerated": artefact}, {"accelerated": gate}
    )
    example = work / "example.npz"
    np.savez(example, **given)  # type: ignore[arg-type]
    with step(f"packing {options.name}.mar and trying it alone"):
        target = packing.write(stage, record, options.model_store, example)
    candidate = Candidate("tensorrt", artefact.precision_asked, "given", error=NOT_PROVEN)
    workshop, nothing = Workshop(subject, work, [], options.gpu), Reference([], [], [])
    made = Passport.read(stage)
    report.write(target, made, options, workshop, nothing, [candidate], candidate)
    return target
