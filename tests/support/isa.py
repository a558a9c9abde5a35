"""The processor as it is and as older ones, so that no machine hides what happens on another.

``ONEDNN_MAX_CPU_ISA`` keeps the kernels of OpenVINO and PyTorch from newer instructions. It is read
once a process: what is tested runs in a process of its own.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from handlers import passport as passports
from repack import archive
from tests.support import made
from tests.support.shared import once

VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
LOWERED = ("AVX512_CORE", "AVX2")
"""Ceilings below bfloat16, each with kernels of its own."""

ISAS = ("", *LOWERED)
"""The processor as it is, then under each ceiling."""

REASON = r"(ONEDNN_MAX_CPU_ISA=\w+ leaves this CPU no bf16|this CPU has no bf16 \([\w ,]+\))"
"""Why bfloat16 does not run, as a pattern."""


def environment(isa: str) -> dict[str, str]:
    """What is to be set for one of ``ISAS``."""
    return {VARIABLES[0]: isa} if isa else {}


def has_bf16(isa: str = "") -> bool:
    """Whether this machine's processor has bfloat16 under one of ``ISAS``: asked of the kernel, not
    of what is tested."""
    ceiling = isa or next((os.environ[v] for v in VARIABLES if os.environ.get(v)), "")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    return ceiling.upper() not in LOWERED and "avx512_bf16" in flags


def without_bf16() -> list[str]:
    """Those of ``ISAS`` under which this machine's processor has no bfloat16."""
    return [isa for isa in ISAS if not has_bf16(isa)]


EXECUTION = {"f32": "f32", "bf16": "bf16", "int8": "bf16"}
"""What an artefact asks of OpenVINO where it was packed on a CPU with bfloat16."""


@once
def packed_with_bf16(precision: str) -> Path:
    """``tiny.mar`` for OpenVINO in a precision, as a CPU with bfloat16 packs it; made anywhere.

    The files of f32 and bf16 are the same: the type is asked for when they are loaded.
    """
    room = made.folder() / f"packed-{precision}"
    given: list[str | Path] = ["--precision", "int8" if precision == "int8" else "f32"]
    if precision == "int8":
        (room / "calibration").mkdir(parents=True)
        rng = np.random.default_rng(1)
        values = [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(6)]
        for i, value in enumerate(values):
            np.save(room / "calibration" / f"{i}.npy", value)
        given += ["--calibration", room / "calibration"]
    given += ["--backend", "openvino", "--name", "tiny", "--weights", made.tiny_onnx()]
    made.repacked(*given, "--model-store", room)
    record = archive.unpack(room / "tiny.mar", room / "tiny")
    fast = replace(
        record.artefacts["accelerated"],
        precision_asked=precision,
        precision_found={"label": precision, "layers": {precision: 1.0}, "flops": {precision: 1.0}},
        options={"execution_type": EXECUTION[precision]},
    )
    record = replace(record, artefacts={**record.artefacts, "accelerated": fast})
    (room / "tiny" / passports.FILE).write_text(record.to_json(), encoding="utf-8")
    archive.pack(room / "tiny", room / "tiny.mar")
    archive.verify(room / "tiny.mar")
    return room / "tiny.mar"
