"""Turns a checkpoint into a verified TorchServe archive.

    python repack/model_repack.py --weights best.pt --name fd1

checkpoint -> module -> artefact -> gate -> .mar in the model store. Exit codes: 0 done, 1 a mistake
in what was asked or given, 2 wrong flags, 3 the converted model does not answer like the original.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from repack import cli  # noqa: E402
from repack.progress import say, step  # noqa: E402

if TYPE_CHECKING:
    from repack.candidates import Candidate, Workshop
    from repack.samples import Sample
    from repack.subjects import Subject
    from repack.verify import Reference


def repack(options: cli.Options) -> Path:
    """The whole road: load -> convert -> verify -> pack.

    Returns:
        The archive's path.

    Raises:
        KitError: something given cannot be used.
        GateFailed: no candidate answers like the original; nothing was written or replaced.
    """
    from repack import archive, candidates, packing, samples, verify

    with step(f"loading {options.weights}"):
        subject = load(options)
    say(f"    {subject.source.family} {subject.source.network}, task {subject.task}")
    asked = candidates.listed(
        subject, options.backend, options.precision, options.calibration is not None
    )
    gate_samples, calibration = read_samples(options, subject)
    with tempfile.TemporaryDirectory(prefix="repack-") as tmp:
        try:
            workshop = candidates.Workshop(
                subject, Path(tmp) / "work", [s.inputs for s in calibration]
            )
            with step("asking the original"):
                reference = verify.Reference.make(subject, gate_samples)
            portable = prove_portable(workshop, reference)
            tried = [portable if same(c, portable) else c for c in asked]
            for candidate in tried:
                if candidate is not portable:
                    try_one(candidate, workshop, reference)
            chosen = choose(tried, reference, options)
            stage = Path(tmp) / "stage"
            record = fill_stage(stage, workshop, chosen, portable, options)
            example = packing.example_input(subject, gate_samples, Path(tmp))
            with step(f"packing {options.name}.mar and trying it alone"):
                target = packing.write(stage, record, options.model_store, example)
        except OSError as e:
            raise archive.disk_error(e, Path(tmp)) from None
    write_report(target, tried, chosen, options)
    return target


def load(options: cli.Options) -> Subject:
    """The checkpoint, as something that can be converted."""
    from repack import sources, subjects

    source = sources.load(options.weights, options.network)
    if source.task == "detection":
        settings = {
            "confidence": options.confidence,
            "iou": options.iou,
            "max_detections": options.max_detections,
        }
        return subjects.detector(source, options.imgsz, settings)
    return subjects.tensors(source, options.input_shapes)


def read_samples(options: cli.Options, subject: Subject) -> tuple[list[Sample], list[Sample]]:
    """The gate's samples and the calibration's, without overlap."""
    from repack import samples

    gate = samples.read(options.samples, subject, "--samples") if options.samples else []
    calibration = (
        samples.read(options.calibration, subject, "--calibration") if options.calibration else []
    )
    gate = samples.refuse_overlap(calibration, gate)
    if not gate:
        say("  note: no --samples, so the gate compares on random inputs only")
    return gate, calibration


def prove_portable(workshop: Workshop, reference: Reference) -> Candidate:
    """The f32 module that every machine can run; it must pass the gate too."""
    from repack.candidates import Candidate
    from repack.verify import GateFailed

    backend = "onnxruntime" if workshop.subject.module is None else "torchscript"
    portable = Candidate(backend, "f32")
    try_one(portable, workshop, reference)
    if portable.error:
        raise cli.KitError(f"no portable module: {portable.error}")
    if not portable.passed:
        assert portable.gate is not None
        raise GateFailed(f"the portable {backend} module: {portable.verdict}", portable.gate)
    return portable


def try_one(candidate: Candidate, workshop: Workshop, reference: Reference) -> None:
    """Builds one candidate and puts it through the gate."""
    from repack import candidates, packing

    with step(f"converting to {candidate.backend} {candidate.precision}"):
        workshop.build(candidate)
    if candidate.artefact is None:
        return
    record = packing.passport(workshop.subject, "candidate", "0", {}, {})
    with step(f"comparing {candidate.backend} {candidate.precision} with the original"):
        candidates.examine(candidate, workshop.subject, workshop.stage, record, reference)


def same(one: Candidate, other: Candidate) -> bool:
    return (one.backend, one.precision) == (other.backend, other.precision)


def choose(tried: list[Candidate], reference: Reference, options: cli.Options) -> Candidate:
    """The fastest candidate that passed, and the table that it was chosen from.

    Raises:
        GateFailed, KitError: none passed.
    """
    from repack import candidates
    from repack.verify import GateFailed

    with step("timing what passed"):
        candidates.measure(tried, reference.inputs[-1])
    say(cli.table(tried))
    passed = [c for c in tried if c.passed]
    if passed:
        return min(passed, key=lambda c: c.ms)
    gates = [c.gate for c in tried if c.gate is not None]
    if gates:
        raise GateFailed("no conversion answers like the original; nothing was written", gates[0])
    raise cli.KitError("; ".join(f"{c.backend} {c.precision}: {c.error}" for c in tried))


def fill_stage(
    stage: Path, workshop: Workshop, chosen: Candidate, portable: Candidate, options: cli.Options
) -> cli.Passport:
    """Moves the chosen and the portable artefact's files into the stage, and writes the passport."""
    from repack import packing

    assert chosen.artefact is not None and portable.artefact is not None
    assert chosen.gate is not None and portable.gate is not None
    for artefact in {id(a): a for a in (chosen.artefact, portable.artefact)}.values():
        for file in artefact.files:
            target = stage / file
            target.parent.mkdir(parents=True, exist_ok=True)
            (workshop.stage / file).replace(target)
    return packing.passport(
        workshop.subject,
        options.name,
        options.version,
        {"accelerated": chosen.artefact, "portable": portable.artefact},
        {"accelerated": chosen.gate.to_dict(), "portable": portable.gate.to_dict()},
    )


def write_report(
    target: Path, tried: list[Candidate], chosen: Candidate, options: cli.Options
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
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    say(f"  {target}: {target.stat().st_size / 1e6:.1f} MB, {chosen.backend} {chosen.precision}")


if __name__ == "__main__":
    sys.exit(cli.main(repack))
