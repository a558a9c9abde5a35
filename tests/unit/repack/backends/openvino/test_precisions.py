"""OpenVINO: f32 keeps a norm's digits over many voxels; what int8 leaves in floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from repack.backends.conversion import Conversion
from repack.backends.openvino import floats
from repack.candidates import Candidate, try_one
from repack.gate import Reference
from repack.model import Arrays, Model
from repack.raw_tensors import tensors
from tests.support import odd_models as odd
from tests.support.loading import load


def network(path: Path, sides: tuple[int, ...], scales: Any, more: int = 1) -> Model:
    """Convolution, instance norm, ReLU, convolutions.

    Args:
        sides: of the input, which has one channel.
        scales: of the first convolution's channels.
        more: convolutions after it.
    """
    rng = np.random.default_rng(6)
    count, kernel = len(scales), (3,) * len(sides)
    wide = (-1, 1, *[1] * len(sides))
    first = rng.normal(0, 0.3, (count, 1, *kernel)) * np.reshape(scales, wide)
    pads = [1] * 2 * len(sides)

    def conv(fed: str, given: str, name: str, *bias: str) -> NodeProto:
        return helper.make_node("Conv", [fed, f"{name}_w", *bias], [given], given, pads=pads)

    nodes = [
        conv("x", "a", "first", "first_b"),
        helper.make_node("InstanceNormalization", ["a", "one", "zero"], ["b"], "norm"),
        helper.make_node("Relu", ["b"], ["c"], "relu"),
        *(conv("c" if i == 0 else f"d{i}", f"d{i + 1}", "same") for i in range(more - 1)),
        conv("c" if more == 1 else f"d{more - 1}", "y", "last"),
    ]
    values = {
        "first_w": first.astype(np.float32),
        "first_b": (2 * np.asarray(scales)).astype(np.float32),
        "one": np.ones(count, np.float32),
        "zero": np.zeros(count, np.float32),
        "same_w": rng.normal(0, 0.1, (count, count, *kernel)).astype(np.float32),
        "last_w": rng.normal(0, 0.3, (2, count, *kernel)).astype(np.float32),
    }
    shape: list[int | str] = ["batch", 1, *sides]
    odd.saved(
        path,
        nodes,
        [("x", odd.FLOAT, shape)],
        [("y", odd.FLOAT, ["batch", 2, *sides])],
        **values,
    )
    return tensors(load(path), {})


def tried(model: Model, folder: Path, precision: str, calibration: list[Arrays]) -> Candidate:
    folder.mkdir()
    candidate = Candidate("openvino", precision)
    given = Conversion(model, folder, calibration)
    try_one(candidate, given, Reference.make(model, []))
    return candidate


def error(candidate: Candidate) -> float:
    assert candidate.proof is not None, candidate.error
    return candidate.proof.gate.outputs["y"]["relative_l2"]


@pytest.mark.parametrize("sides", [(512, 512), (32, 96, 96)], ids=["picture", "volume"])
def test_f32_keeps_its_digits(tmp_path: Path, sides: tuple[int, ...]) -> None:
    """OpenVINO's own kernel differs by 4e-5 here, and by 2.5e-4 over the voxels of a window."""
    model = network(tmp_path / "m.onnx", sides, [1.0] * 16)
    candidate = tried(model, tmp_path / "work", "f32", [])
    assert candidate.verdict == "passed"
    assert error(candidate) < 1e-5


def test_int8_leaves_the_norms_in_floats(tmp_path: Path) -> None:
    """Channels that a norm makes alike lie three powers of ten apart before it."""
    model = network(tmp_path / "m.onnx", (32, 32), np.logspace(-3, 0, 16))
    calibration = [model.random_inputs(seed) for seed in range(4)]
    candidate = tried(model, tmp_path / "work", "int8", calibration)
    assert candidate.verdict == "passed"
    assert error(candidate) < 0.05


def test_int8_leaves_the_layer_behind_an_input_without_bounds_in_floats(tmp_path: Path) -> None:
    """What the calibration did not hold is cut off nowhere."""
    model = network(tmp_path / "m.onnx", (32, 32), [1.0] * 16, more=3)
    wide = [model.random_inputs(seed) for seed in range(4)]
    calibration = [{"x": np.clip(given["x"], -0.3, 0.3)} for given in wide]
    candidate = tried(model, tmp_path / "work", "int8", calibration)
    assert candidate.verdict == "passed"
    assert error(candidate) < 0.1
    assert candidate.proof is not None
    found = candidate.proof.gate.precision_found
    assert found["flops"].keys() == {"int8", "f32"} or found["flops"].keys() == {"int8", "bf16"}
    assert found["kept"] == pytest.approx(1 - found["flops"]["int8"], abs=1e-3)


def decoding(path: Path) -> Model:
    """Pictures of bytes through three convolutions; the mean of a distribution over 16 bins, times
    32, beside a score of 0..1, as YOLOv8 and its kin decode their boxes."""
    rng = np.random.default_rng(6)

    def conv(fed: str, given: str, pads: int) -> NodeProto:
        return helper.make_node("Conv", [fed, f"{given}_w"], [given], given, pads=[pads] * 4)

    nodes = [
        helper.make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT),
        conv("f", "first", 1),
        helper.make_node("Relu", ["first"], ["r"], "relu"),
        conv("r", "bins", 1),
        conv("r", "score", 1),
        helper.make_node("Softmax", ["bins"], ["shares"], "softmax", axis=1),
        conv("shares", "mean", 0),
        helper.make_node("Mul", ["mean", "stride"], ["side"], "mul"),
        helper.make_node("Sigmoid", ["score"], ["sure"], "sigmoid"),
        helper.make_node("Concat", ["side", "sure"], ["y"], "concat", axis=1),
    ]
    values = {
        "first_w": rng.normal(0, 0.002, (8, 3, 3, 3)).astype(np.float32),
        "bins_w": rng.normal(0, 0.3, (16, 8, 3, 3)).astype(np.float32),
        "score_w": rng.normal(0, 0.3, (1, 8, 3, 3)).astype(np.float32),
        "mean_w": np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1),
        "stride": np.float32(32),
    }
    shape: list[int | str] = ["batch", 3, 32, 32]
    end: list[int | str] = ["batch", 2, 32, 32]
    odd.saved(path, nodes, [("x", TensorProto.UINT8, shape)], [("y", odd.FLOAT, end)], **values)
    return tensors(load(path), {})


def test_int8_leaves_what_no_layer_reads_in_floats(tmp_path: Path) -> None:
    """Told by what reads what: no node's name says what it is for."""
    import openvino as ov

    decoding(tmp_path / "m.onnx")
    graph = ov.convert_model(tmp_path / "m.onnx")
    left = floats.left(graph)
    heavy = [op for op in graph.get_ops() if op.get_type_name() in floats.HEAVY]
    assert {"softmax", "sigmoid", "y"} <= left
    assert left.isdisjoint({"cast", "first", "relu", "bins", "score"})
    (mean,) = (op for op in heavy if op.get_friendly_name() in left)  # times 32: it is renamed
    assert mean.input_value(0).get_node().get_friendly_name() == "softmax"


def test_int8_keeps_scores_beside_pixels(tmp_path: Path) -> None:
    """In one tensor of int8 with pixels up to 480, no score of 0..1 is left."""
    model = decoding(tmp_path / "m.onnx")
    calibration = [model.random_inputs(seed) for seed in range(4)]
    candidate = tried(model, tmp_path / "work", "int8", calibration)
    assert candidate.proof is not None, candidate.error
    given = model.random_inputs(9)
    want, have = model.ask(given)["y"], candidate.proof.runtime.infer(given)["y"]
    assert candidate.verdict == "passed"
    assert np.abs(want - have)[:, 1].mean() < 0.02
    assert candidate.proof.gate.precision_found["kept"] > 0
