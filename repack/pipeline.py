"""The one sequence: load -> build -> check -> choose -> pack -> report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handlers.errors import KitError
from handlers.passport import Passport
from repack import candidates, packing, report, samples, sources, tables, tasks
from repack.archive import disk_error
from repack.backends import BACKENDS
from repack.backends.conversion import Conversion
from repack.candidates import Candidate
from repack.gate import NOT_PROVEN, Reference
from repack.model import Model, within
from repack.onnx import symbolic
from repack.options import Options
from repack.progress import say, step
from repack.samples import Sample
from repack.sources.source import Source
from repack.tasks import TASKS


def repack(options: Options) -> Path:
    """Does all that the options ask.

    Returns:
        The archive's path.

    Raises:
        KitError: something given cannot be used.
        GateFailed: no candidate answers like the original; nothing was written or replaced.
    """
    with step(f"loading {options.source.weights}"):
        model = load(options)
    say(f"    {model.source.family} {model.source.network}, task {model.task}")
    asked = candidates.asked(
        model, options.backend, options.precision, options.calibration is not None, options.gpu
    )
    gate_samples, calibration = read_samples(options, model)
    packing.require_writable(options.model_store)
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp:
        work, stage = Path(tmp) / "work", Path(tmp) / "stage"
        work.mkdir()
        try:
            drawn = within(model, model.built.profile if model.built else options.gpu.profile)
            reference = _reference(drawn, gate_samples)
            model = tasks.named(model.task).settled(model, reference.answers if reference else [])
            conversion = Conversion(model, work, [s.inputs for s in calibration], options.gpu)
            portable = prove_portable(conversion, reference) if reference else []
            tried = try_all(asked, portable, conversion, reference)
            chosen = choose(tried, reference, portable)
            record = fill(stage, conversion, chosen, portable[-1] if portable else None, options)
            example = tasks.named(model.task).example(drawn, gate_samples, Path(tmp))
        except OSError as e:
            raise disk_error(e, Path(tmp)) from None
        with step(f"packing {options.name}.mar and trying it alone"):
            target = packing.write(stage, record, options.model_store, example)
        made = Passport.read(stage)
        report.write(target, made, options, conversion, reference, tried, chosen)
    return target


def load(options: Options) -> Model:
    """What ``options.source`` holds, as a model of its task.

    Raises:
        KitError: it cannot be read, or is no model of the task that was asked for.
    """
    # First: it may define what the checkpoint needs.
    functions = symbolic.load(options.symbolic) if options.symbolic else {}
    source = sources.load(options.source)
    task = tasks.named(_task(source, options))
    model = task.model(source, options)
    if options.symbolic and model.module is None:
        raise KitError(f"--symbolic: {source.path} holds ONNX already: leave it out")
    for line in model.notes:
        say(f"    note: {line}")
    return replace(model, symbolic=functions)


def _task(source: Source, options: Options) -> str:
    """The task that was asked for, else what the file says; names of classes alone say a
    classifier."""
    if options.task != "auto":
        return options.task
    named = options.classifier.labels is not None and not TASKS[source.task].labelled
    return "classification" if named else source.task


def read_samples(options: Options, model: Model) -> tuple[list[Sample], list[Sample]]:
    """The gate's samples and the calibration's, without overlap.

    Raises:
        KitError: no such folder, nothing usable in it, or both hold the same files.
    """

    def read(folder: Path | None, flag: str) -> list[Sample]:
        if folder is None:
            return []
        if not folder.is_dir():
            raise KitError(f"{flag} {folder}: no such folder")
        return tasks.named(model.task).read_samples(folder, model, flag)

    calibration = read(options.calibration, "--calibration")
    gate = samples.refuse_overlap(calibration, read(options.samples, "--samples"))
    if not gate and model.original is not None:
        say("    note: no --samples, so the gate compares on random inputs only")
    return gate, calibration


def _reference(model: Model, gate_samples: Sequence[Sample]) -> Reference | None:
    """What the original answers; None where there is none, which is said."""
    if model.original is None:
        say(f"    warning: {NOT_PROVEN}")
        return None
    with step("asking the original"):
        return Reference.make(model, gate_samples)


def prove_portable(conversion: Conversion, reference: Reference) -> list[Candidate]:
    """The f32 artefact that every machine can run, last of those tried; it must pass the gate too.

    Raises:
        KitError, GateFailed: it could not be made, or differs from the original.
    """
    tried: list[Candidate] = []
    for backend in (b for b in BACKENDS.values() if b.portable):
        if backend.takes(conversion.model) is not None:
            continue
        if tried:
            before = BACKENDS[tried[-1].backend].title
            reason = tried[-1].error
            say(f"    note: no {before} artefact ({reason}); {backend.title}'s is the portable one")
        tried.append(Candidate(backend.name, "f32"))
        candidates.try_one(tried[-1], conversion, reference)
        if tried[-1].proof is not None:
            break
    tried[-1].proven()
    return tried


def try_all(
    asked: Sequence[Candidate],
    portable: Sequence[Candidate],
    conversion: Conversion,
    reference: Reference | None,
) -> list[Candidate]:
    """Every candidate, built and compared; those tried as the portable one are not built again."""
    tried: list[Candidate] = []
    for candidate in asked:
        known = next((c for c in portable if c.same_artefact(candidate)), None)
        if known is not None:
            tried.append(known)
        elif not candidates.superfluous(candidate, tried, conversion.gpu):
            candidates.try_one(candidate, conversion, reference)
            tried.append(candidate)
    return tried


def choose(
    tried: Sequence[Candidate], reference: Reference | None, portable: Sequence[Candidate]
) -> Candidate:
    """The fastest candidate that passed; shows the table that it was chosen from.

    Without an original there is one candidate, and nothing to choose.

    Raises:
        KitError, GateFailed: none passed.
    """
    if reference is None:
        tried[0].proven()
        return tried[0]
    with step("timing what passed"):
        candidates.measure(tried, reference.inputs[-1])
    say(tables.candidates(tried))
    passed = [c for c in tried if c.usable]
    if not passed:
        compared = [c for c in tried if c.proof is not None]
        if not compared:
            raise KitError(candidates.advice(tried[0], portable[-1]))
        compared[0].proven()
    return min(passed, key=lambda c: c.per_item_ms)


def fill(
    stage: Path,
    conversion: Conversion,
    chosen: Candidate,
    portable: Candidate | None,
    options: Options,
) -> Passport:
    """Moves the artefacts' files into the stage; returns their passport.

    Args:
        portable: None where there is nothing that every machine can run.
    """
    parts = {"accelerated": chosen.proven()}
    if portable is not None:
        parts["portable"] = portable.proven()
    for file in {f for part in parts.values() for f in part.artefact.files}:
        target = stage / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (conversion.stage / file).replace(target)
    return packing.passport(
        conversion.model,
        options.name,
        options.version,
        {name: part.artefact for name, part in parts.items()},
        {name: part.gate.to_dict() for name, part in parts.items()},
    )
