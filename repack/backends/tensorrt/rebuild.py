"""What an archive needs so that a worker can build its engines again (``--rebuild-on-load``)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from handlers.artefact import Artefact, Rebuild, TensorRTOptions
from handlers.engines import versions
from handlers.errors import KitError
from repack.backends.tensorrt.engines import PLUGINS, QUANTISED, SOURCE, Plan
from repack.backends.tensorrt.int8 import RANGES, by_calibrator, fed, write_ranges
from repack.model import Model, within
from repack.onnx import typed as typed_onnx
from repack.progress import say
from repack.tolerances import TOLERANCES

CHECK_SEED = 7101
"""Seed of the input that a worker compares a rebuilt engine on; no other step uses it."""


def refuse(plan: Plan) -> None:
    """Refuses what cannot be built again without the user's pictures.

    Raises:
        KitError: int8 ranges by TensorRT's calibrator.
    """
    if by_calibrator(plan, versions.dialect(versions.library())):
        raise KitError(
            f"--rebuild-on-load: {plan.precision} via {plan.via} is calibrated on pictures, which "
            "no archive holds: --precision f16, or without --rebuild-on-load"
        )


def pack(
    plan: Plan, artefact: Artefact, model: Model, folder: str, stage: Path, work: Path
) -> Artefact:
    """Adds the ONNX files, the recipe, and an input with the original's answers.

    Args:
        work: the folder that ``repack.backends.tensorrt.engines.build`` left its ONNX files in.
    """
    target = stage / folder
    options: TensorRTOptions = artefact.options
    source, weak = work / SOURCE, "rebuild.onnx"
    strong: str | None = weak if plan.precision == "f32" else f"rebuild-{plan.precision}.onnx"
    if strong != weak and not _typed(plan, work, target / str(strong)):
        strong = None
    shutil.copyfile(work / PLUGINS if options.plugins else source, target / weak)
    if plan.precision == "int8":
        if not (work / RANGES).is_file():
            write_ranges(plan, source, work / RANGES)
        shutil.copyfile(work / RANGES, target / RANGES)
    profile = {} if options.batches else dict(options.engines[0])
    given = within(model, profile).random_inputs(CHECK_SEED)
    answers = model.ask(given)
    arrays = {f"in/{k}": v for k, v in given.items()}
    arrays |= {f"out/{k}": answers[k] for k in options.outputs}
    np.savez_compressed(target / "rebuild.npz", **arrays)  # type: ignore[arg-type]
    ranges = RANGES if plan.precision == "int8" else None
    recipe = Rebuild(
        weakly_typed=f"{folder}/{weak}",
        strongly_typed=f"{folder}/{strong}" if strong else None,
        ranges=ranges,
        check=f"{folder}/rebuild.npz",
        relative_l2=TOLERANCES[plan.precision].relative_l2,
        level=plan.options.level,
        workspace=plan.options.workspace_mb << 20,
    )
    names = sorted({weak, "rebuild.npz", *filter(None, (strong, ranges))})
    return replace(
        artefact,
        files=(*artefact.files, *(f"{folder}/{name}" for name in names)),
        options=replace(options, rebuild=recipe),
    )


def _typed(plan: Plan, work: Path, target: Path) -> bool:
    """Writes the file for TensorRT 10 and later; False where the model has no such form."""
    made = work / f"engine-{plan.precision}.onnx"
    if made.is_file():
        shutil.copyfile(made, target)
        return True
    try:
        source = work / SOURCE
        if plan.precision == "int8":
            source = work / QUANTISED
            typed_onnx.quantised(work / SOURCE, source, fed(plan))
        typed_onnx.half(source, target)
    except Exception as e:  # the converter raises many types for models that it does not take
        first = (str(e).splitlines() or [type(e).__name__])[0]
        say(f"    note: no rebuilding with TensorRT 10 or later ({first})")
        target.unlink(missing_ok=True)
        return False
    return True
