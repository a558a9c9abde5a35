"""A worker asks OpenVINO only for what its processor has, and says where it was packed for more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handlers import passport as passports
from handlers.passport import Passport
from handlers.runtimes import openvino_
from repack import archive
from tests.support.isa import REASON, VARIABLES, environment, has_bf16, packed_with_bf16

PROGRAM = """
import json, logging, sys
from pathlib import Path
logging.basicConfig(stream=sys.stderr)
from handlers.context import LocalContext
from handlers.entry import Entry

entry, context = Entry(), LocalContext(Path.cwd())
entry.initialize(context)
(answer,) = entry.handle([{"body": sys.stdin.buffer.read()}], context)
(metric,) = (v for k, v in context.metrics.totals.items() if k[0] == "handler_fallback")
print(json.dumps(json.loads(answer) | {"metric": metric}))
"""
VALUES = np.random.default_rng(3).normal(size=(1, 3, 8, 8)).astype(np.float32)


def answered(folder: Path, isa: str) -> dict[str, Any]:
    """What a worker of the unpacked archive answers on such a processor, with its log."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps({"inputs": VALUES.tolist()}),
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment(isa)},
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report | {"log": done.stderr}


def outputs(answer: dict[str, Any]) -> Any:
    return np.array(answer["outputs"]["y"]["data"])


@pytest.fixture(scope="module", params=["bf16", "int8"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed where the CPU has bfloat16."""
    folder = tmp_path_factory.mktemp(request.param)
    archive.unpack(packed_with_bf16(request.param), folder)
    return folder


def changed(packed: Path, folder: Path, **fields: Any) -> Path:
    """A copy of an unpacked archive whose accelerated artefact says otherwise."""
    copy = folder / "changed"
    copy.mkdir()
    for path in packed.iterdir():
        (copy / path.name).symlink_to(path)
    record = Passport.read(packed)
    fast = replace(record.artefacts["accelerated"], **fields)
    (copy / passports.FILE).unlink()
    record = replace(record, artefacts={**record.artefacts, "accelerated": fast})
    (copy / passports.FILE).write_text(record.to_json(), encoding="utf-8")
    return copy


def test_what_the_cpu_lacks_becomes_f32_and_is_said(packed: Path, tmp_path: Path, isa: str) -> None:
    asked = Passport.read(packed).artefacts["accelerated"].precision_asked
    answer = answered(packed, isa)
    runtime, log = answer["runtime"], answer["log"]
    assert runtime["name"] == "openvino"
    if has_bf16(isa):
        assert (runtime["precision"], runtime["fallback"]) == (asked, None)
        assert answer["metric"] == 0
        assert "FALLBACK" not in log
        return
    assert runtime["precision"] == {"bf16": "f32", "int8": "int8"}[asked]
    words = {"bf16": "packed as bf16", "int8": "packed as int8 with bf16 beside it"}
    line = f"{words[asked]}, but {REASON}: bf16 becomes f32"
    assert re.fullmatch(line, runtime["fallback"]), runtime["fallback"]
    assert answer["metric"] == 1
    assert f"FALLBACK tiny: {runtime['fallback']}" in log
    plain = changed(packed, tmp_path, options={"execution_type": "f32"})
    assert np.array_equal(outputs(answer), outputs(answered(plain, isa))), "f32 is what ran"


def test_a_type_that_no_cpu_has_is_not_passed_on(packed: Path, tmp_path: Path) -> None:
    """OpenVINO would take the nearest that it knows, or fail with a trace of its own."""
    odd = changed(packed, tmp_path, options={"execution_type": "f17"})
    fallback = answered(odd, "")["runtime"]["fallback"]
    assert "this CPU has no f17 (OpenVINO names FP32" in fallback
    assert fallback.endswith(": f17 becomes f32")


def test_int8_is_read_from_the_layers_and_not_from_the_passport(tmp_path: Path) -> None:
    archive.unpack(packed_with_bf16("f32"), tmp_path / "f32")
    label = {"label": "int8", "layers": {"int8": 1.0}, "flops": {"int8": 1.0}}
    given = {"precision_asked": "int8", "precision_found": label}
    runtime = answered(changed(tmp_path / "f32", tmp_path, **given), "")["runtime"]
    assert runtime["precision"] == "f32"
    assert runtime["fallback"] == "packed as int8, but this machine runs it in f32"


OLD, NEW = ["FP32", "INT8"], ["BF16", "WINOGRAD", "FP32", "INT8", "BIN", "EXPORT_IMPORT"]
NONE = "this CPU has no bf16 (OpenVINO names FP32, INT8)"
LOW = "ONEDNN_MAX_CPU_ISA=avx2_vnni leaves this CPU no bf16"


@pytest.mark.parametrize(
    ("has", "variables", "precision", "why"),
    [
        (OLD, {}, "bf16", NONE),
        (OLD, {}, "f32", None),
        (OLD, {}, "int8", None),
        (["FP32"], {}, "int8", "this CPU has no int8 (OpenVINO names FP32)"),
        (NEW, {}, "bf16", None),
        (NEW, {}, "f16", "this CPU has no f16 (OpenVINO names FP32, BF16, INT8)"),
        (NEW, {VARIABLES[0]: "avx2_vnni"}, "bf16", LOW),
        (NEW, {VARIABLES[0]: "AVX2"}, "int8", None),
        (NEW, {VARIABLES[0]: "AVX512_CORE_BF16"}, "bf16", None),
        (NEW, {VARIABLES[0]: "ALL"}, "bf16", None),
        (NEW, {VARIABLES[0]: "rubbish"}, "bf16", None),  # oneDNN ignores it
        (NEW, {VARIABLES[1]: "AVX2"}, "bf16", "DNNL_MAX_CPU_ISA=AVX2 leaves this CPU no bf16"),
        (NEW, {VARIABLES[0]: "ALL", VARIABLES[1]: "AVX2"}, "bf16", None),
        (NEW, {VARIABLES[0]: "", VARIABLES[1]: "AVX2"}, "bf16", "DNNL_MAX_CPU_ISA=AVX2 leaves "
         "this CPU no bf16"),
        (OLD, {VARIABLES[0]: "AVX2"}, "bf16", NONE),
    ],
)  # fmt: skip
def test_what_a_cpu_lacks(
    has: list[str],
    variables: dict[str, str],
    precision: str,
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = SimpleNamespace(get_property=lambda device, name: has)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert openvino_.lacks(precision) == why
