"""Engines answer like the networks that they were built from, built both ways."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.engines import versions
from handlers.errors import KitError, Unprocessable
from repack import candidates
from repack.backends.conversion import Conversion
from repack.candidates import Candidate
from repack.gate import Reference
from repack.model import within
from repack.tolerances import shortfall
from tests.support import built
from tests.support.built import Asked, Built, asked, build, found, gated, options, relative_l2

pytestmark = pytest.mark.gpu

TORCH2TRT = pytest.mark.skipif(find_spec("torch2trt") is None, reason="torch2trt is not installed")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Built:
    """Two convolutions in 16 bits by ONNX, batches 1 and 4."""
    return build(asked("f16", engines), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def flexible(tmp_path_factory: pytest.TempPathFactory, engines: Path) -> Built:
    """The same with one profile: batches 1 to 4, sides 16 to 32."""
    return build(asked("flexible", engines), tmp_path_factory.mktemp("flexible"))


@pytest.mark.parametrize("name", ["f16", "f32", pytest.param("torch2trt", marks=TORCH2TRT)])
def test_both_ways_pass_the_gate(tmp_path: Path, engines: Path, name: str) -> None:
    wanted = asked(name, engines)
    result = gated(build(wanted, tmp_path), wanted.precision)
    assert result.passed, result.failures
    assert result.precision_found["label"] == wanted.precision


def test_padding_never_shows(tiny: Built) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((5, 3, built.SIDE, built.SIDE)).astype(np.float32)
    alone = np.concatenate([tiny.runtime.infer({"x": row[None]})["output"] for row in x])
    poison = np.full((4, *x.shape[1:]), 6e4, np.float32)
    for rows in range(1, 6):
        tiny.runtime.infer({"x": poison})
        found = tiny.runtime.infer({"x": x[:rows]})["output"]
        assert found.shape[0] == rows
        for i in range(rows):  # row by row: a whole batch's error would hide one wrong row
            assert relative_l2(alone[i], found[i]) < 5e-3, (rows, i)


def test_a_non_contiguous_input_gives_the_right_answer(tiny: Built) -> None:
    """Row 8, on a GPU."""
    rng = np.random.default_rng(4)
    wide = rng.standard_normal((4, built.SIDE, built.SIDE * 2, 3)).astype(np.float32)
    view = wide.transpose(0, 3, 1, 2)[:, ::-1, :, ::2]
    assert not view.flags.c_contiguous
    want = tiny.model.ask({"x": np.ascontiguousarray(view)})["output"]
    assert relative_l2(want, tiny.runtime.infer({"x": view})["output"]) < 1e-2


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (2, 3, 20, 30), (4, 3, 32, 32), (3, 3, 17, 31)])
def test_shapes_inside_the_profile_run(flexible: Built, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    want = flexible.model.ask({"x": x})["output"]
    assert relative_l2(want, flexible.runtime.infer({"x": x})["output"]) < 1e-2


@pytest.mark.parametrize("shape", [(5, 3, 16, 16), (1, 3, 33, 32), (1, 3, 16, 15)])
def test_shapes_outside_are_refused_with_the_limits(
    flexible: Built, shape: tuple[int, ...]
) -> None:
    """Row 8, on a GPU."""
    with pytest.raises(Unprocessable) as refused:
        flexible.runtime.infer({"x": np.zeros(shape, np.float32)})
    assert f"x: shape {list(shape)} came" in str(refused.value)
    assert "built for [1, 3, 16, 16] to [4, 3, 32, 32]" in str(refused.value)
    assert flexible.runtime.infer({"x": np.zeros((1, 3, 16, 16), np.float32)})


def test_the_precision_is_read_back(tiny: Built, tmp_path: Path, engines: Path) -> None:
    told = found(tiny.runtime)
    assert told["label"] == "f16"
    assert shortfall("f16", told) is None
    assert shortfall("f32", told) is not None
    best = build(asked("best", engines), tmp_path)
    chosen = found(best.runtime)
    assert chosen["label"] in ("f16", "f32", "int8")
    assert shortfall("best", chosen) is None


def test_int8_is_calibrated_and_runs_in_int8(tmp_path: Path, engines: Path) -> None:
    wanted = asked("int8", engines)
    given, made = wanted.model, build(wanted, tmp_path)
    assert found(made.runtime)["flops"].get("int8", 0) > 0
    x = given.random_inputs(99)
    assert relative_l2(given.ask(x)["output"], made.runtime.infer(x)["output"]) < 0.15


class Deep(torch.nn.Module):
    """Ten convolutions with SiLU: three keep their floats in int8, and what lies between two."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *[32] * 9]
        self.layers = torch.nn.ModuleList(torch.nn.Conv2d(n, 32, 3, padding=1) for n in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.nn.functional.silu(layer(x))
        return x


def test_int8_keeps_what_leads_to_the_outputs_in_16_bits(
    tmp_path: Path, engines: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = built.model(Deep, "batch", 3, 64, 64)
    calibration = [given.random_inputs(seed) for seed in range(40, 48)]
    asks = options(engines, batches=(1,), level=2)
    made = build(Asked(given, asks, "int8", calibration), tmp_path)
    assert "as wishes" not in "".join(capfd.readouterr())
    told = json.loads(
        made.runtime.engines[0]  # type: ignore[attr-defined]
        .create_engine_inspector()
        .get_engine_information(versions.library().LayerInformationFormat.JSON),
        strict=False,
    )
    types = {
        layer["Name"].split("/")[1]: (
            layer["Weights"]["Type"],
            *("FP16" in layer[side][0]["Format/Datatype"] for side in ("Inputs", "Outputs")),
        )
        for layer in told["Layers"]
        if layer.get("Weights", {}).get("Count")
    }
    assert types["layers.9"] == ("Half", True, True)
    assert types["layers.8"] == ("Half", True, True)
    assert [types[f"layers.{i}"][0] for i in range(2, 8)] == ["Int8"] * 6
    x = given.random_inputs(99)
    assert relative_l2(given.ask(x)["output"], made.runtime.infer(x)["output"]) < 0.15


def tried(folder: Path, engines: Path, via: str) -> list[Candidate]:
    """TensorRT's candidates in 16 bits for a volume's network, tried as the pipeline does."""
    given, gpu = built.volume(), options(engines, via=via, batches=(1,))
    conversion, reference = Conversion(given, folder, [], gpu), Reference.make(given, [])
    done: list[Candidate] = []
    for candidate in candidates.asked(given, "tensorrt", "f16", False, gpu):
        if not candidates.superfluous(candidate, done, gpu):
            candidates.try_one(candidate, conversion, reference)
            done.append(candidate)
    return done


@TORCH2TRT
def test_the_gate_catches_torch2trts_instance_norm(tmp_path: Path, engines: Path) -> None:
    first, second = tried(tmp_path, engines, "auto")
    assert (first.via, first.passed) == ("torch2trt", False)
    assert first.proof is None or "relative L2 error" in first.verdict, first.verdict
    assert (second.via, second.passed) == ("onnx", True), second.verdict


def test_a_volume_passes_in_16_bits_by_onnx(
    tmp_path: Path, engines: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (only,) = tried(tmp_path, engines, "onnx")
    assert only.passed, only.verdict
    assert only.proven().gate.precision_found["flops"]["f16"] >= 0.9
    said = "".join(capsys.readouterr())
    made = build(asked("volume", engines), tmp_path / "again")
    told = made.runtime.engines[0].create_engine_inspector()  # type: ignore[attr-defined]
    layers = told.get_engine_information(made.runtime.trt.LayerInformationFormat.JSON)  # type: ignore[attr-defined]
    plugins = made.artefact.options.plugins
    assert ("PluginV2" in layers) == bool(plugins)
    if installed().startswith("8.") and not plugins:
        assert "normalised by TensorRT's layer" in said
        pytest.skip("TensorRT's plugin could not be built in here, and a line said so")


def installed() -> str:
    return str(versions.library().__version__)


def test_torchscript_in_16_bits_passes_the_gate(tmp_path: Path, engines: Path) -> None:
    given = built.net()
    made = build(Asked(given, options(engines, via="auto")), tmp_path, "torchscript-cuda")
    result = gated(made, "f16")
    assert result.passed, result.failures
    x = given.random_inputs(8, batch=3)
    assert relative_l2(given.ask(x)["output"], made.runtime.infer(x)["output"]) < 1e-2


def test_builds_that_cannot_be_are_one_line(tmp_path: Path, engines: Path) -> None:
    given = built.net()
    with pytest.raises(KitError, match="int8 needs inputs to calibrate on") as refused:
        build(Asked(given, options(engines), "int8"), tmp_path / "a")
    assert "\n" not in str(refused.value)
    wrong = {"x": (1, 3, 16, 16)}
    narrow = options(engines, batches=(), min=wrong, opt=wrong, max=wrong)
    with pytest.raises(KitError, match="the model's own shape is") as refused:
        build(Asked(given, narrow), tmp_path / "b")
    assert "\n" not in str(refused.value)
    with pytest.raises(KitError, match="give --min, --opt and --max"):
        build(Asked(built.flexible(), options(engines)), tmp_path / "c")


def test_a_profile_passes_the_gate_on_inputs_inside_it(flexible: Built) -> None:
    given = within(flexible.model, {"": ((1, 3, 16, 16), (2, 3, 24, 24), (4, 3, 32, 32))})
    reference = Reference.make(given, [])
    assert [v["x"].shape for v in reference.inputs] == [(2, 3, 24, 24)] + [(1, 3, 24, 24)] * 2
    result = gated(flexible, "f16", given)
    assert result.passed, result.failures
