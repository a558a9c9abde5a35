"""What an archive needs so that a worker can build its engines again (``--rebuild-on-load``)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from handlers.artefact import Artefact, Rebuild, TensorRTOptions
from handlers.engines import versions
from handlers.errors import KitError
from repack.backends.tensorrt import onnx_file
from repack.backends.tensorrt.onnx_file import PLUGINS, RANGES, SOURCE
from repack.backends.tensorrt.request import EngineRequest
from repack.model import Model, within
from repack.progress import say
from repack.tolerances import TOLERANCES

CHECK_SEED = 7101
"""Seed of the input that a worker compares a rebuilt engine on; no other step uses it."""


def refuse(request: EngineRequest) -> None:
    """Refuses what cannot be built again without the user's pictures.

    Raises:
        KitError: int8 ranges by TensorRT's calibrator.
    """
    if request.by_calibrator(versions.dialect(versions.library())):
        raise KitError(
            f"--rebuild-on-load: {request.precision} via {request.via} is calibrated on pictures, "
            "which no archive holds: --precision f16, or without --rebuild-on-load"
        )


def pack(
    request: EngineRequest,
    artefact: Artefact,
    model: Model,
    folder: str,
    stage: Path,
    work: Path,
) -> Artefact:
    """Adds the ONNX files, how to build them, and an input with the original's answers.

    Args:
        work: the folder that ``repack.backends.tensorrt.engines.build`` left its ONNX files in.
    """
    target = stage / folder
    weak, strong, ranges = "rebuild.onnx", None, None
    built_from = work / (PLUGINS if artefact.options.plugins else SOURCE)
    shutil.copyfile(built_from, target / weak)
    try:
        typed = onnx_file.in_types(request, work)
    except Exception as e:  # the converter raises many types for models that it does not take
        first = (str(e).splitlines() or [type(e).__name__])[0]
        say(f"    note: no rebuilding with TensorRT 10 or later ({first})")
    else:
        strong = weak if typed == built_from else f"rebuild-{request.precision}.onnx"
        shutil.copyfile(typed, target / strong)
    if request.precision == "int8":
        ranges = RANGES
        shutil.copyfile(onnx_file.int8_ranges(request, work), target / ranges)
    options: TensorRTOptions = artefact.options
    profile = {} if options.batches else dict(options.engines[0])
    given = within(model, profile).random_inputs(CHECK_SEED)
    answers = model.ask(given)
    arrays = {f"in/{k}": v for k, v in given.items()}
    arrays |= {f"out/{k}": answers[k] for k in options.outputs}
    np.savez_compressed(target / "rebuild.npz", **arrays)  # type: ignore[arg-type]
    recipe = Rebuild(
        weakly_typed=f"{folder}/{weak}",
        strongly_typed=f"{folder}/{strong}" if strong else None,
        ranges=ranges,
        check=f"{folder}/rebuild.npz",
        relative_l2=TOLERANCES[request.precision].relative_l2,
        level=request.options.level,
        workspace=request.options.workspace_mb << 20,
    )
    names = sorted({weak, "rebuild.npz", *filter(None, (strong, ranges))})
    return replace(
        artefact,
        files=(*artefact.files, *(f"{folder}/{name}" for name in names)),
        options=replace(options, rebuild=recipe),
    )
