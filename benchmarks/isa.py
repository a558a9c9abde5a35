"""Times OpenVINO's precisions on this processor as it is and as older ones, side by side.

    python benchmarks/isa.py [--rounds 5] [--out benchmarks/results]

The shipped detector at 640x640, one picture, one thread, the model alone. ``ONEDNN_MAX_CPU_ISA``
keeps OpenVINO's kernels from newer instructions; each ceiling has a process of its own, and they
take turns, of which the quietest counts. Milliseconds are the processor's own, which other work on
the machine disturbs less than the clock's. "asked" is OpenVINO given the type that a CPU with
bfloat16 packs, whatever this one has; "served" is the archive's own runtime, which asks for what
there is. Writes ``isa.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402

from benchmarks import work  # noqa: E402
from handlers.artefact import Artefact, OpenVinoOptions  # noqa: E402
from handlers.passport import TensorSpec  # noqa: E402
from handlers.runtimes.openvino_ import OpenVino  # noqa: E402
from qpstest import machine  # noqa: E402
from repack import archive  # noqa: E402

CEILINGS = ("", "AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2_VNNI", "AVX2")
PRECISIONS = {"f32": "f32", "bf16": "bf16", "int8": "bf16"}
"""What is packed, and the type that a CPU with bfloat16 asks of OpenVINO for it."""

CALLS = 20
SPEC = TensorSpec("images", "uint8", (1, 640, 640, 3), (0, 255))


def main() -> None:
    """Packs the detector, measures under each ceiling in turns, writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns (the quietest is kept)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps({p: measured(given.measure / p, p) for p in PRECISIONS}))
        return
    with tempfile.TemporaryDirectory(prefix="kb-") as tmp:
        pack(Path(tmp))
        turns = [{c: turn(Path(tmp), c) for c in CEILINGS} for _ in range(given.rounds)]
    text = table(turns, " ".join(["python", "benchmarks/isa.py", *sys.argv[1:]]))
    (given.out / "isa.md").write_text(text, encoding="utf-8")
    print(text)


def pack(folder: Path) -> None:
    """The archives' model files, unpacked: those of f32 and bf16 are the same."""
    scenes = work.scenes(folder / "scenes", 32, seed=33)
    command = [sys.executable, "repack/model_repack.py", "--backend", "openvino"]
    for precision, flags in (("f32", []), ("int8", ["--calibration", str(scenes)])):
        store = folder / f"{precision}-store"
        flags += ["--precision", precision, "--model-store", str(store)]
        subprocess.run([*command, *flags], cwd=ROOT, check=True)
        archive.unpack(store / "fd1.mar", folder / precision)
    (folder / "bf16").mkdir()
    (folder / "bf16" / "openvino-bf16").symlink_to(folder / "f32" / "openvino-f32")


def turn(folder: Path, ceiling: str) -> dict[str, dict[str, Any]]:
    """The figures under one ceiling, from a process of its own."""
    environment = os.environ | ({"ONEDNN_MAX_CPU_ISA": ceiling} if ceiling else {})
    command = [sys.executable, __file__, "--measure", str(folder)]
    done = subprocess.run(
        command, check=True, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def measured(folder: Path, precision: str) -> dict[str, Any]:
    """OpenVINO as asked, and the runtime that serves, on one picture."""
    picture = np.random.default_rng(7).integers(0, 256, SPEC.shape, np.uint8)  # type: ignore[arg-type]
    files = (f"openvino-{precision}/model.xml", f"openvino-{precision}/model.bin")
    hint = PRECISIONS[precision]
    artefact = Artefact(
        "openvino",
        files,
        precision,
        {"label": precision},
        "tensors",
        OpenVinoOptions(execution_type=hint),
    )
    config = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    found: dict[str, Any] = {"has": ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
    try:
        compiled = ov.Core().compile_model(str(folder / files[0]), "CPU", config)
    except RuntimeError as e:
        found["refused"] = str(e).strip().splitlines()[-1]
    else:
        request = compiled.create_infer_request()
        found["asked_ms"] = timed(lambda: request.infer([picture]))
        found["kernels"] = kernels(compiled)
    runtime = OpenVino(folder, artefact, (SPEC,))
    runtime.activate()
    found["served_ms"] = timed(lambda: runtime.infer({"images": picture}))
    return found | {"precision": runtime.precision, "note": runtime.note}


def kernels(compiled: Any) -> str:
    """The kernel that most convolutions run in."""
    about = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    named = [
        str(info["primitiveType"].value)
        for info in about
        if str(info["layerType"].value) == "Convolution"
    ]
    return Counter(named).most_common(1)[0][0]


def timed(call: Callable[[], object]) -> float:
    """Median milliseconds of processor time of a call."""
    taken = []
    for i in range(CALLS + 3):
        begin = time.process_time()
        call()
        if i >= 3:
            taken.append((time.process_time() - begin) * 1e3)
    return median(taken)


def table(turns: list[dict[str, dict[str, dict[str, Any]]]], command: str) -> str:
    """The figures as Markdown."""
    here, versions = machine.describe(), machine.versions()
    first = turns[0]
    listed = {", ".join(first[c]["f32"]["has"]) for c in CEILINGS}
    lines = [
        "# OpenVINO's precisions as the processor is, and as older ones",
        "",
        f"`{command}`, {processor()}, {here['cores']} cores, OpenVINO {versions['openvino']}; the "
        "shipped detector at 640x640, one picture, one thread, the model alone; processor "
        f"time, medians of {CALLS} calls in the quietest of {len(turns)} turns (load average "
        f"{here['load_average'][0]} at the end).",
        "",
        f"OPTIMIZATION_CAPABILITIES under every ceiling: {' | '.join(sorted(listed))}.",
        "",
        "| ONEDNN_MAX_CPU_ISA | packed | asked of OpenVINO | most convolutions run in | ms "
        "| served as | ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for ceiling in CEILINGS:
        for precision, hint in PRECISIONS.items():
            one = first[ceiling][precision]
            kernel = one.get("kernels", f"does not compile: {one.get('refused')}")
            figures = [
                f"{min(t[ceiling][precision][key] for t in turns):.1f}" if key in one else "-"
                for key in ("asked_ms", "served_ms")
            ]
            served = f"{one['precision']}, with a word" if one["note"] else one["precision"]
            lines.append(
                f"| {ceiling or 'not set'} | {precision} | {hint} | {kernel} | {figures[0]} "
                f"| {served} | {figures[1]} |"
            )
    lines += ["", f'The word: "{first[CEILINGS[-1]]["bf16"]["note"]}".']
    return "\n".join([*lines, ""])


def processor() -> str:
    """The processor as ``lscpu`` names it, with those of its flags that matter here."""
    shown = subprocess.run(["lscpu"], check=True, capture_output=True, text=True).stdout
    about = {k.strip(): v.strip() for k, _, v in (x.partition(":") for x in shown.splitlines())}
    flags = [
        f
        for f in about["Flags"].split()
        if f in ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
    ]
    family = f"family {about['CPU family']}, model {about['Model']}"
    return f"{about['Vendor ID']} {about['Model name']} ({family}: {', '.join(flags)})"


if __name__ == "__main__":
    main()
