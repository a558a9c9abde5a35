"""The whole road: checkpoint -> module -> artefact -> gate -> .mar in the model store."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from handlers.errors import KitError
from handlers.passport import Passport
from repack import packing, samples, segmentation, sources, subjects
from repack.archive import Draft, disk_error
from repack.candidates import Candidate, Workshop, listed, measure, try_one
from repack.cli import Options, table
from repack.progress import say, step
from repack.samples import Sample
from repack.subjects import Subject
from repack.verify import Reference


def repack(options: Options) -> Path:
    """Does all that the options ask.

    Returns:
        The archive's path.

    Raises:
        KitError: something given cannot be used.
        GateFailed: no candidate answers like the original; nothing was written or replaced.
    """
    with step(f"loading {options.weights}"):
        subject = load(options)
    say(f"    {subject.source.family} {subject.source.network}, task {subject.task}")
    asked = listed(subject, options.backend, options.precision, options.calibration is not None)
    gate_samples, calibration = read_samples(options, subject)
    packing.require_writable(options.model_store)
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp:
        work, stage = Path(tmp) / "work", Path(tmp) / "stage"
        try:
            workshop = Workshop(subject, work, [s.inputs for s in calibration])
            with step("asking the original"):
                reference = Reference.make(subject, gate_samples)
            portable = prove_portable(workshop, reference)
            tried = [portable if c.form == portable.form else c for c in asked]
            for candidate in tried:
                if candidate is not portable:
                    try_one(candidate, workshop, reference)
            chosen = choose(tried, reference)
            record = fill(stage, workshop, chosen, portable, options)
            example = packing.example_input(subject, gate_samples, Path(tmp))
        except OSError as e:
            raise disk_error(e, Path(tmp)) from None
        with step(f"packing {options.name}.mar and trying it alone"):
            target = packing.write(stage, record, options.model_store, example)
    write_report(target, tried, chosen, options)
    return target


def load(options: Options) -> Subject:
    """The checkpoint, as something that can be converted."""
    source = sources.load(
        options.weights, options.network, options.folds, options.mirror, options.volumes
    )
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


def prove_portable(workshop: Workshop, reference: Reference) -> Candidate:
    """The f32 form that every machine can run; it must pass the gate too.

    Raises:
        KitError, GateFailed: it could not be made, or differs from the original.
    """
    backend = "onnxruntime" if workshop.subject.module is None else "torchscript"
    portable = Candidate(backend, "f32")
    try_one(portable, workshop, reference)
    portable.proven()
    return portable


def choose(tried: Sequence[Candidate], reference: Reference) -> Candidate:
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
        (compared or list(tried))[0].proven()
    return min(passed, key=lambda c: c.ms)


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


def write_report(
    target: Path, tried: Sequence[Candidate], chosen: Candidate, options: Options
) -> None:
    """Writes NAME.report.json beside the archive: the table with all figures, and the choice."""
    report = {
        "archive": target.name,
        "command": options.command,
        "chosen": {"backend": chosen.backend, "precision": chosen.precision},
        "candidates": [c.to_dict() for c in tried],
        "timing": "median ms of one model call, batch 1, one thread, on the packing machine",
    }
    path = target.with_suffix(".report.json")
    try:
        with Draft(path) as draft:
            draft.path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            draft.commit()
    except OSError as e:
        say(f"    note: {path} was not written ({e.strerror or e}); the archive is whole")
    say(f"  {target}: {target.stat().st_size / 1e6:.1f} MB, {chosen.backend} {chosen.precision}")
