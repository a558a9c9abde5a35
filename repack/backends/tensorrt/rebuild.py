"""What an archive needs so that a worker can build its engines again (``--rebuild-on-load``)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from handlers.engines import rebuild, versions
from handlers.errors import KitError
from handlers.passport import Artefact
from repack.backends.tensorrt import onnx_file
from repack.backends.tensorrt.onnx_file import PLUGINS, RANGES, SOURCE
from repack.backends.tensorrt.request import EngineRequest
from repack.gate import TOLERANCES
from repack.model import Subject, within
from repack.progress import say

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
    subject: Subject,
    folder: str,
    stage: Path,
    work: Path,
) -> Artefact:
    """Adds the ONNX files, how to build them, and an input with the original's answers.

    Args:
        work: the folder that ``repack.backends.tensorrt.engines.build`` left its ONNX files in.
    """
    target = stage / folder
    files = {"flags": "rebuild.onnx"}
    built_from = work / (PLUGINS if artefact.options.get("plugins") else SOURCE)
    shutil.copyfile(built_from, target / files["flags"])
    try:
        typed = onnx_file.in_types(request, work)
    except Exception as e:  # the converter raises many types for models that it does not take
        first = (str(e).splitlines() or [type(e).__name__])[0]
        say(f"    note: no rebuilding with TensorRT 10 or later ({first})")
    else:
        same = typed == built_from
        files["typed"] = files["flags"] if same else f"rebuild-{request.precision}.onnx"
        shutil.copyfile(typed, target / files["typed"])
    if request.precision == "int8":
        files["ranges"] = RANGES
        shutil.copyfile(onnx_file.int8_ranges(request, work), target / RANGES)
    options = artefact.options
    profile = {} if options["batches"] else options["engines"][0]
    given = within(subject, profile).random_inputs(CHECK_SEED)
    answers = subject.original(given)
    arrays = {f"in/{k}": v for k, v in given.items()}
    arrays |= {f"out/{k}": answers[k] for k in options["outputs"]}
    np.savez_compressed(target / "rebuild.npz", **arrays)  # type: ignore[arg-type]
    recipe = {
        **{k: f"{folder}/{files[k]}" if k in files else None for k in ("flags", "typed")},
        "ranges": files.get("ranges"),
        "check": f"{folder}/rebuild.npz",
        "relative_l2": TOLERANCES[request.precision].relative_l2,
        "level": request.options.level,
        "workspace": request.options.workspace_mb << 20,
    }
    names = sorted({*files.values(), "rebuild.npz"})
    return replace(
        artefact,
        files=(*artefact.files, *(f"{folder}/{name}" for name in names)),
        options={**options, rebuild.OPTION: recipe},
    )
