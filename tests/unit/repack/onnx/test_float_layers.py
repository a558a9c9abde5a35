"""Which layers and tensors int8 leaves in floats, and that the files for TensorRT say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import GraphProto, NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from repack.backends.tensorrt import onnx_file
from repack.backends.tensorrt.request import EngineRequest
from repack.model import Arrays, GpuModel
from repack.onnx import float_layers, nodes, typed
from repack.options import GpuOptions
from tests.support.engines import CHAIN

FLOATS = {*(f"layers.{i}" for i in (0, 8, 12, 13)), "side"}


def calibration() -> list[Arrays]:
    rng = np.random.default_rng(4)
    return [{"x": rng.uniform(0, 1, (1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    onnx_file.convert(CHAIN, tmp_path / onnx_file.SOURCE)
    return tmp_path / onnx_file.SOURCE


def short(name: str) -> str:
    """``/layers.8/Conv`` -> ``layers.8``."""
    return name.strip("/").split("/")[0]


def given_by(graph: GraphProto, tensors: list[str]) -> list[str]:
    """The nodes that give these tensors."""
    giver = {name: node.name for node in graph.node for name in node.output}
    return sorted(short(giver[name]) for name in tensors)


def test_layers_beside_inputs_and_outputs_are_left_in_floats(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load(chain).graph
    floats = float_layers.ends(graph)
    assert {short(name) for name in floats} == FLOATS
    # The convolutions and their activations; what layer 0 gives goes to a layer in int8.
    held = ["MaxPool", "Mul", "Relu_12", "Relu_13", "Relu_8", "Sigmoid"]
    held += ["layers.12", "layers.13", "layers.8", "side"]
    assert given_by(graph, float_layers.between(graph, floats)) == held
    monkeypatch.setattr(float_layers, "AT_INPUTS", 5)
    # With the branch nine of 15 would be left out, more than half: then none is.
    assert float_layers.ends(graph) == []


def test_only_what_all_comes_from_layers_in_floats_is_between(chain: Path) -> None:
    graph = onnx.load(chain).graph
    layers = [f"/layers.{i}/Conv" for i in (3, 8, 9)]
    assert given_by(graph, float_layers.between(graph, layers)) == ["Relu_8", "layers.8"]
    add = helper.make_node("Add", ["/Relu_8_output_0", "/Relu_5_output_0"], ["sum"], "add")
    place = next(i for i, node in enumerate(graph.node) if node.name == "/layers.9/Conv")
    graph.node[place].input[0] = "sum"
    graph.node.insert(place, add)
    assert given_by(graph, float_layers.between(graph, layers)) == ["Relu_8", "layers.8"]
    graph.node[place].input[1] = "/layers.8/Conv_output_0"
    assert given_by(graph, float_layers.between(graph, layers)) == ["Relu_8", "add", "layers.8"]


def test_one_of_a_nodes_results_may_lead_on() -> None:
    def conv(fed: str, given: str) -> NodeProto:
        return helper.make_node("Conv", [fed, "w"], [given], given)

    split = helper.make_node("Split", ["b"], ["left", "right"], "split", axis=1)
    nodes = [conv("x", "a"), conv("a", "b"), split, conv("left", "c"), conv("right", "d")]
    tensors = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "c")}
    graph = helper.make_graph(
        nodes,
        "g",
        [tensors["x"]],
        [tensors["c"]],
        [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])],
    )
    assert float_layers.between(graph, ["b", "c"]) == ["b", "c", "left"]


class Ending(nn.Module):
    """Six convolutions; the last reads what ``made`` makes of the one before it."""

    def __init__(self, made: Callable[[Tensor, Tensor], Tensor], channels: int = 4):
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(n, 4, 3, padding=1) for n in (2, 4, 4, 4, 4))
        self.last = nn.Conv2d(channels, 3, 1)
        self.norm = nn.InstanceNorm2d(4, affine=True)
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.first:
            y = torch.relu(layer(y))
        if self.made is NORM:
            return self.last(self.norm(y))  # type: ignore[no-any-return]
        return self.last(self.made(x, y))  # type: ignore[no-any-return]


def NORM(x: Tensor, y: Tensor) -> Tensor:  # noqa: N802
    raise AssertionError("a module, not a function")


def flattened(x: Tensor, y: Tensor) -> Tensor:
    return y.reshape(x.shape[0], 4, -1, 1)


def resized(x: Tensor, y: Tensor) -> Tensor:
    return functional.interpolate(y, size=x.shape[-2:])


def joined(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y], 1)


@pytest.mark.parametrize("made", [NORM, flattened, resized, joined])
def test_what_the_last_layer_reads_is_held_in_floats(
    made: Callable[[Tensor, Tensor], Tensor], tmp_path: Path
) -> None:
    net = Ending(made, 6 if made is joined else 4).eval().requires_grad_(False)
    shapes: dict[str, tuple[int | str, ...]] = {"x": ("batch", 2, "height", "width")}
    model = GpuModel(net, shapes, {"x": "float32"}, ("y",))
    onnx_file.convert(model, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    floats = float_layers.ends(graph)
    assert {name.split("/")[1] for name in floats} == {"first.0", "first.4", "last"}
    (last,) = (node for node in graph.node if node.name == "/last/Conv")
    assert last.input[0] in float_layers.between(graph, floats)


def test_a_size_is_no_way_to_the_output(tmp_path: Path) -> None:
    """Only the size of what the third layer gives is looked at."""

    class Sized(Ending):
        def forward(self, x: Tensor) -> Tensor:
            y = x
            for i, layer in enumerate(self.first):
                y = torch.relu(layer(y))
                if i == 2:
                    seen = y
            return self.last(functional.interpolate(y, size=seen.shape[-2:]))  # type: ignore[no-any-return]

    model = GpuModel(Sized(resized).eval(), {"x": ("batch", 2, "h", "w")}, {"x": "float32"}, ("y",))
    onnx_file.convert(model, tmp_path / "m.onnx")
    names = float_layers.ends(onnx.load(tmp_path / "m.onnx").graph)
    assert {name.split("/")[1] for name in names} == {"first.0", "first.4", "last"}


def test_a_mean_by_a_softmaxs_shares_is_no_layer_of_its_own() -> None:
    """YOLOv8's boxes: the two layers before it are left in floats all the same."""

    def conv(fed: str, given: str) -> NodeProto:
        return helper.make_node("Conv", [fed, "w"], [given], given)

    nodes = [
        conv("x", "a"),
        *(conv(fed, given) for fed, given in zip("abcdefg", "bcdefgh", strict=True)),
    ]
    nodes += [
        helper.make_node("Reshape", ["h", "s"], ["i"], "moved"),
        helper.make_node("Softmax", ["i"], ["j"], "softmax", axis=1),
        helper.make_node("Transpose", ["j"], ["k"], "turned"),
        conv("k", "mean"),
    ]
    tensors = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "mean")}
    apart = [
        helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("s", TensorProto.INT64, [1], [-1]),
    ]
    graph = helper.make_graph(nodes, "g", [tensors["x"]], [tensors["mean"]], apart)
    assert float_layers.ends(graph) == ["a", "g", "h", "mean"]


def test_every_node_has_a_name_of_its_own(chain: Path) -> None:
    graph = onnx.load(chain).graph
    names = [node.name for node in graph.node]
    for node in graph.node[::2]:
        node.name = ""
    graph.node[1].name = f"{graph.node[0].op_type}_0"
    nodes.name_all(graph)
    now = [node.name for node in graph.node]
    assert len(set(now)) == len(names)
    assert all(now)
    assert now[3::2] == names[3::2]


def test_layers_in_floats_read_values_that_were_not_rounded(chain: Path, tmp_path: Path) -> None:
    typed.quantised(chain, tmp_path / "q.onnx", calibration())
    graph = onnx.load(tmp_path / "q.onnx").graph
    giver = {name: node for node in graph.node for name in node.output}
    reads = {
        short(node.name): giver[node.input[0]].op_type
        for node in graph.node
        if node.op_type == "Conv"
    }
    found = {name: kind for name, kind in reads.items() if name in FLOATS}
    # What layer 8 reads comes from a layer in int8, and is not rounded again.
    assert found == dict.fromkeys(FLOATS, "Relu") | {"layers.0": "Mul", "side": "MaxPool"}
    (pooled,) = (node for node in graph.node if node.op_type == "MaxPool")
    assert giver[pooled.input[0]].op_type == "Relu"
    rest = [kind for name, kind in reads.items() if name not in FLOATS]
    assert rest == ["DequantizeLinear"] * 10


def test_the_file_for_tensorrt_8_holds_layers_and_tensors(chain: Path, tmp_path: Path) -> None:
    asked = EngineRequest(CHAIN, "onnx", "int8", (1,), {}, GpuOptions(), calibration())
    told = json.loads(onnx_file.int8_ranges(asked, tmp_path).read_text())
    graph = onnx.load(chain).graph
    assert told["floats"] == float_layers.ends(graph)
    assert told["between"] == float_layers.between(graph, told["floats"])
    assert "/Relu_8_output_0" in told["between"]
    assert set(told["between"]) <= set(told["ranges"])


def test_a_tensor_without_a_range_is_not_demanded(chain: Path, tmp_path: Path) -> None:
    """Whole numbers, that is: TensorRT does not take 16-bit floats in their place."""
    model = onnx.load(chain)
    cast = helper.make_node("Cast", ["b"], ["whole"], "cast", to=TensorProto.INT64)
    model.graph.node.append(cast)
    model.graph.output.append(helper.make_tensor_value_info("whole", TensorProto.INT64, None))
    onnx.save(model, chain)
    asked = EngineRequest(CHAIN, "onnx", "int8", (1,), {}, GpuOptions(), calibration())
    told = json.loads(onnx_file.int8_ranges(asked, tmp_path).read_text())
    assert "whole" in float_layers.between(model.graph, told["floats"])
    assert "whole" not in told["between"]
    assert "b" in told["between"]
