"""The whole road: checkpoint -> module -> artefact -> gate -> .mar in the model store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from handlers.errors import KitError
from handlers.passport import Passport
from repack import model as subjects
from repack import packing, refusals, report, samples, sources
from repack.archive import disk_error
from repack.candidates import Candidate, Workshop, measure, try_one
from repack.cli import Options, table
from repack.gate import Reference
from repack.listing import listed, superfluous
from repack.model import Subject
from repack.onnx import symbolic
from repack.progress import say, step
from repack.samples import Sample
from repack.sources import engine as ready
from repack.tasks.classification import model as classifier
from repack.tasks.segmentation import model as segmentation


def repack(options: Options) -> Path:
    """Does all that the options ask.

    Returns:
        The archive's path.

    Raises:
        KitError: something given cannot be used.
        GateFailed: no candidate answers like the original; nothing was written or replaced.
    """
    if ready.holds(options.weights):
        return ready.repack(options)
    if options.original is not None:
        raise KitError("--original is for an engine of --weights: a checkpoint is its own original")
    with step(f"loading {options.weights}"):
        subject = load(options)
    say(f"    {subject.source.family} {subject.source.network}, task {subject.task}")
    calibrated = options.calibration is not None
    asked = listed(subject, options.backend, options.precision, calibrated, options.gpu)
    gate_samples, calibration = read_samples(options, subject)
    packing.require_writable(options.model_store)
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp:
        work, stage = Path(tmp) / "work", Path(tmp) / "stage"
        try:
            workshop = Workshop(subject, work, [s.inputs for s in calibration], options.gpu)
            with step("asking the original"):
                drawn = subjects.within(subject, options.gpu.profile)
                reference = Reference.make(drawn, gate_samples)
            first = prove_portable(workshop, reference)
            portable = first[-1]
            tried: list[Candidate] = []
            for candidate in asked:
                known = next((f for f in first if f.form == candidate.form), None)
                if known is not None:
                    tried.append(known)
                elif not superfluous(candidate, tried, options.gpu):
                    try_one(candidate, workshop, reference)
                    tried.append(candidate)
            chosen = choose(tried, reference, portable)
            record = fill(stage, workshop, chosen, portable, options)
            example = packing.example_input(drawn, gate_samples, Path(tmp))
        except OSError as e:
            raise disk_error(e, Path(tmp)) from None
        with step(f"packing {options.name}.mar and trying it alone"):
            target = packing.write(stage, record, options.model_store, example)
        made = Passport.read(stage)
        report.write(target, made, options, workshop, reference, tried, chosen)
    return target


def load(options: Options) -> Subject:
    """The checkpoint, as something that can be converted."""
    if options.symbolic is None:
        return _load(options)
    functions = symbolic.load(options.symbolic)  # first: it may define what the checkpoint needs
    subject = _load(options)
    if subject.module is None:
        raise KitError(f"--symbolic: {subject.source.path} holds ONNX already: leave it out")
    return replace(subject, symbolic=functions)


def _load(options: Options) -> Subject:
    source = sources.load(
        options.weights,
        options.network,
        options.folds,
        options.mirror,
        options.volumes,
        options.tensorflow_python,
    )
    if options.classifier is not None:
        return classifier.subject(source, options.input_shapes, options.classifier)
    if source.task == "segmentation":
        if options.input_shapes:
            raise KitError("--input-shape: a segmentation net's input is its settings' patch")
        return segmentation.subject(source)
    if source.task != "detection":
        return subjects.tensors(source, options.input_shapes)
    if options.input_shapes:
        raise KitError("--input-shape: a YOLOv5 detector's input is set by --imgsz")
    settings = {
        "confidence": options.confidence,
        "iou": options.iou,
        "max_detections": options.max_detections,
    }
    return subjects.detector(source, options.imgsz, settings)


def read_samples(options: Options, subject: Subject) -> tuple[list[Sample], list[Sample]]:
    """The gate's samples and the calibration's, without overlap."""
    gate = samples.read(options.samples, subject, "--samples") if options.samples else []
    calibration = (
        samples.read(options.calibration, subject, "--calibration") if options.calibration else []
    )
    gate = samples.refuse_overlap(calibration, gate)
    if not gate:
        say("    note: no --samples, so the gate compares on random inputs only")
    return gate, calibration


def prove_portable(workshop: Workshop, reference: Reference) -> list[Candidate]:
    """The f32 form that every machine can run, last of those tried; it must pass the gate too.

    That is TorchScript, and ONNX Runtime where the model has no TorchScript form.

    Raises:
        KitError, GateFailed: it could not be made, or differs from the original.
    """
    tried: list[Candidate] = []
    if workshop.subject.module is not None:
        tried.append(Candidate("torchscript", "f32"))
        try_one(tried[0], workshop, reference)
    if not tried or tried[0].proof is None:
        if tried:
            say(f"    note: no TorchScript form ({tried[0].error}); ONNX Runtime's is the portable")
        tried.append(Candidate("onnxruntime", "f32"))
        try_one(tried[-1], workshop, reference)
    tried[-1].proven()
    return tried


def choose(tried: Sequence[Candidate], reference: Reference, portable: Candidate) -> Candidate:
    """The fastest candidate that passed; shows the table that it was chosen from.

    Raises:
        KitError, GateFailed: none passed.
    """
    with step("timing what passed"):
        measure(tried, reference.inputs[-1])
    say(table(tried))
    passed = [c for c in tried if c.passed]
    if not passed:
        compared = [c for c in tried if c.proof is not None]
        if not compared:
            raise KitError(refusals.advice(tried[0], portable))
        compared[0].proven()
    return min(passed, key=lambda c: c.per_item_ms)


def fill(
    stage: Path, workshop: Workshop, chosen: Candidate, portable: Candidate, options: Options
) -> Passport:
    """Moves the chosen and the portable form's files into the stage; returns their passport."""
    accelerated, fallback = chosen.proven(), portable.proven()
    for file in {*accelerated.artefact.files, *fallback.artefact.files}:
        target = stage / file
        target.parent.mkdir(parents=True, exist_ok=True)
        (workshop.stage / file).replace(target)
    return packing.passport(
        workshop.subject,
        options.name,
        options.version,
        {"accelerated": accelerated.artefact, "portable": fallback.artefact},
        {"accelerated": accelerated.gate.to_dict(), "portable": fallback.gate.to_dict()},
    )
