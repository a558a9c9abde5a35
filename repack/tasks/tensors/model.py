"""Raw tensors: any model as it is, and an engine that the user built, with its original."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from handlers import runtimes
from handlers.artefact import Artefact
from handlers.errors import KitError
from repack import sources
from repack.backends.tensorrt import TensorRT
from repack.inputs import FREE, shown
from repack.model import Arrays, Built, Model
from repack.options import Options, SourceOptions
from repack.raw_tensors import tensors
from repack.sources.source import EngineFile, Source
from repack.tolerances import shortfall

FILE = "model.plan"


def make(source: Source, options: Options) -> Model:
    """Any model as raw tensors; an engine with the original of ``--original`` where it is named.

    Raises:
        KitError: as ``tensors``; an engine does not run here, or its original has other inputs or
            outputs.
    """
    told = source.engine
    if told is None:
        found = tensors(
            replace(source, task="tensors"),
            options.input_shapes,
            options.input_types,
            options.input_values,
        )
        return replace(
            found, notes=(*found.notes, *_notes(source, found, options.samples is not None))
        )
    built = Built(source.path, _artefact(source, told), dict(told.options.engines[0]))
    if options.source.original is None:
        return Model(source, told.inputs, told.outputs, None, None, built=built)
    return replace(_original(options.source, options.source.original, told), built=built)


def _notes(source: Source, found: Model, sampled: bool) -> Iterator[str]:
    """What the user should know who gave no more than the file."""
    free = {s.name: s.shape for s in found.inputs if any(isinstance(n, str) for n in s.shape[1:])}
    if free and not sampled:
        yield (
            f"made-up inputs have a length of {FREE} where an axis is free ({shown(free)}): give "
            "--samples of usual sizes, or --input-shape"
        )
    if source.told.task and source.task == "tensors":
        yield f"the file says that its task is {source.told.task!r}: served are its raw tensors"


def _artefact(source: Source, told: EngineFile) -> Artefact:
    """The engine in the precision that it is judged and shown as: what its layers are in."""
    backend = TensorRT()
    artefact = Artefact(backend.name, (source.path.name,), "best", {}, "tensors", told.options)
    runtime = runtimes.make(source.path.parent, told.inputs, artefact, threads=1)
    runtime.activate()
    report = backend.found(runtime).report(runtime)
    label = str(report["label"])
    known = label in ("f32", "f16", "int8") and shortfall(label, report) is None
    return replace(artefact, files=(FILE,), precision_asked=label if known else "best")


def _original(options: SourceOptions, path: Path, told: EngineFile) -> Model:
    """The file of ``--original``, its inputs and outputs named as the engine's.

    Raises:
        KitError: it has other inputs or outputs than the engine.
    """
    source = sources.load(replace(options, weights=path, original=None))
    source = replace(source, task="tensors")
    shapes: Mapping[str, tuple[int | str, ...]] = {s.name: s.shape for s in told.inputs}
    if source.module is not None:
        found = tensors(source, shapes)
        names = [s.name for s in told.outputs]
        if len(names) != len(found.outputs):
            raise KitError(
                f"--original {path}: {len(found.outputs)} outputs, the engine has "
                f"{', '.join(names)}"
            )
        return _renamed(found, names)
    found = tensors(source, {})
    for what, own, theirs in (
        ("inputs", told.inputs, found.inputs),
        ("outputs", told.outputs, found.outputs),
    ):
        if {s.name for s in own} != {s.name for s in theirs}:
            raise KitError(
                f"--original {path}: {what} {', '.join(s.name for s in theirs)}, the "
                f"engine's are {', '.join(s.name for s in own)}"
            )
    ours = {s.name: s for s in told.inputs}
    return replace(found, inputs=tuple(ours[s.name] for s in found.inputs))


def _renamed(found: Model, names: list[str]) -> Model:

    def renamed(given: Arrays) -> Arrays:
        return dict(zip(names, found.ask(given).values(), strict=True))

    outputs = tuple(replace(s, name=n) for s, n in zip(found.outputs, names, strict=True))
    return replace(found, outputs=outputs, original=renamed)
