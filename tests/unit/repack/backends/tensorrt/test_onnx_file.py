"""The ONNX files that engines are built from answer like the module, in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from repack.backends.tensorrt import onnx_file
from repack.model import GpuModel, Model
from repack.onnx import instance_norm, typed
from tests.support import built

RANKS: list[tuple[type[nn.Module], type[nn.Module]]] = [
    (nn.Conv2d, nn.InstanceNorm2d),
    (nn.Conv3d, nn.InstanceNorm3d),
]


def normed(conv: type[nn.Module], norm: type[nn.Module], affine: bool = True) -> nn.Module:
    """Two convolutions around an InstanceNorm whose weights are not the usual ones and zeros."""
    torch.manual_seed(3)
    layer = norm(6, affine=affine, eps=1e-3)
    if affine:
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.2, 3, 6))  # type: ignore[operator]
            layer.bias.copy_(torch.linspace(-2, 2, 6))  # type: ignore[operator]
    return nn.Sequential(conv(2, 6, 3, padding=1), layer, nn.ReLU(), conv(6, 4, 1)).eval()


def gpu_model(module: nn.Module, *shape: int | str) -> GpuModel:
    return GpuModel(module, {"x": shape}, {"x": "float32"}, ("y",))


def answer(path: Path, **given: Any) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


@pytest.mark.parametrize(("conv", "norm"), RANKS)
@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_is_rewritten_to_the_same_numbers(
    tmp_path: Path, conv: type[nn.Module], norm: type[nn.Module], affine: bool
) -> None:
    module = normed(conv, norm, affine)
    sides = (8, 10, 12)[: 2 if conv is nn.Conv2d else 3]
    onnx_file.convert(gpu_model(module, "batch", 2, *sides), tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert "InstanceNormalization" not in kinds
    assert "LayerNormalization" in kinds
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 17
    onnx.checker.check_model(str(tmp_path / "m.onnx"))
    x = np.random.default_rng(1).normal(2, 3, (3, 2, *sides)).astype(np.float32)
    with torch.no_grad():
        want = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x=x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("after", "relu", "alpha"),
    [(nn.ReLU(), 1, 0.0), (nn.LeakyReLU(0.2), 1, 0.2), (nn.Sigmoid(), 0, 0.0)],
)
def test_volumes_are_normalised_by_the_plugin_with_the_relu_after_it(
    tmp_path: Path, after: nn.Module, relu: int, alpha: float
) -> None:
    """The plugin exists on a GPU only: here its fields are read, and their sum done by hand."""
    torch.manual_seed(4)
    norm = nn.InstanceNorm3d(8, eps=1e-3, affine=True)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    whole = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), norm, after, nn.Conv3d(8, 4, 1)).eval()
    target, plugins = tmp_path / "m.onnx", tmp_path / "p.onnx"
    onnx_file.convert(gpu_model(whole, "batch", 2, 4, 6, 8), target, plugins)
    graph = onnx.load(plugins).graph
    (node,) = [n for n in graph.node if n.op_type == instance_norm.PLUGIN]
    fields = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    assert (fields["relu"], round(fields["alpha"], 6)) == (relu, alpha)
    kinds = {n.op_type for n in graph.node}
    assert not kinds & {"InstanceNormalization", "LayerNormalization"}
    assert not kinds & {"Relu", "LeakyRelu"}
    assert {*graph.node[-1].input} <= {
        *node.output,
        *(t.name for t in graph.initializer),
    } or not relu
    x = torch.randn(3, 8, 4, 6, 8)
    mean, spread = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), correction=0, keepdim=True)
    scale, shift = (torch.tensor(fields[k]).view(8, 1, 1, 1) for k in ("scales", "bias"))
    y = (x - mean) / (spread + fields["epsilon"]).sqrt() * scale + shift
    if relu:
        y = torch.where(y < 0, y * fields["alpha"], y)
    with torch.no_grad():
        want = norm(x) if not relu else after(norm(x))
    torch.testing.assert_close(y, want)
    assert "LayerNormalization" in {n.op_type for n in onnx.load(target).graph.node}


class Norms(nn.Module):
    """Without weights; then with ones that another shares, read twice; then as the output."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv3d(8, 8, 1) for _ in range(4))
        self.plain = nn.InstanceNorm3d(8)
        self.first = nn.InstanceNorm3d(8, affine=True)
        self.second = nn.InstanceNorm3d(8, affine=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.plain(self.convs[0](x)))
        y = self.first(self.convs[1](x))
        z = self.second(self.convs[2](torch.relu(y) + y))
        return self.convs[3](torch.relu(z)), z


def test_norms_without_weights_and_norms_that_others_read_are_told_too(tmp_path: Path) -> None:
    given = GpuModel(Norms().eval(), {"x": ("batch", 8, 4, 4, 4)}, {"x": "float32"}, ("a", "z"))
    onnx_file.convert(given, tmp_path / "m.onnx", tmp_path / "p.onnx")
    graph = onnx.load(tmp_path / "p.onnx").graph
    found = [n for n in graph.node if n.op_type == instance_norm.PLUGIN]
    fields = [{a.name: helper.get_attribute_value(a) for a in n.attribute} for n in found]
    assert [f["relu"] for f in fields] == [1, 0, 0]
    assert fields[0]["scales"] == [1] * 8
    assert fields[0]["bias"] == [0] * 8
    made = {name for n in graph.node for name in n.output} | {t.name for t in graph.initializer}
    assert {name for n in graph.node for name in n.input} <= made | {"x"}
    assert {o.name for o in graph.output} <= made


def test_a_graph_that_holds_graphs_is_left_alone(tmp_path: Path) -> None:
    """A branch may read the norm's output, which would be gone with the ReLU after it."""
    norm = helper.make_node("InstanceNormalization", ["x", "s", "b"], ["n"])
    relu = helper.make_node("Relu", ["n"], ["r"])
    branch = helper.make_graph([helper.make_node("Identity", ["n"], ["o"])], "g", [], [])
    choice = helper.make_node("If", ["c"], ["o"], then_branch=branch, else_branch=branch)
    volume = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 2, 2, 2])
    weights = [numpy_helper.from_array(np.ones(8, np.float32), name) for name in ("s", "b")]
    graph = helper.make_graph([norm, relu, choice], "m", [volume], [], weights)
    assert instance_norm.by_plugin(graph, {"x": 5}) == 0
    del graph.node[2]
    assert instance_norm.by_plugin(graph, {"x": 5}) == 1


@pytest.mark.parametrize(
    ("channels", "norm", "conv"),
    [(6, nn.InstanceNorm3d, nn.Conv3d), (8, nn.InstanceNorm2d, nn.Conv2d)],
)
def test_what_the_plugin_would_hand_to_cudnn_is_left_to_layer_norm(
    tmp_path: Path, channels: int, norm: type[nn.Module], conv: type[nn.Module]
) -> None:
    net = nn.Sequential(conv(2, channels, 1), norm(channels, affine=True)).eval()
    sides = (4, 6, 8)[: 2 if conv is nn.Conv2d else 3]
    onnx_file.convert(gpu_model(net, "batch", 2, *sides), tmp_path / "m.onnx", tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()


@pytest.mark.parametrize("conv", [nn.Conv2d, nn.Conv3d])
def test_group_norm_answers_the_same(tmp_path: Path, conv: type[nn.Module]) -> None:
    """PyTorch writes it as InstanceNormalization of three axes, whatever the convolution's."""
    torch.manual_seed(6)
    net = nn.Sequential(conv(2, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), conv(8, 3, 1)).eval()
    sides = (4, 6, 8)[: 2 if conv is nn.Conv2d else 3]
    onnx_file.convert(gpu_model(net, "batch", 2, *sides), tmp_path / "m.onnx", tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()
    x = np.random.default_rng(7).normal(1, 2, (3, 2, *sides)).astype(np.float32)
    with torch.no_grad():
        want = net(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(answer(tmp_path / "m.onnx", x=x), want, rtol=1e-4, atol=1e-4)


def test_behind_an_unknown_operator_the_convolution_tells_the_rank() -> None:
    nodes = [
        helper.make_node("Mine", ["x"], ["y"], domain="mine"),
        helper.make_node("Conv", ["y", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("InstanceNormalization", ["r", "s", "b"], ["n"]),
    ]
    sizes = {"w": (8, 2, 1, 1, 1), "s": (8,), "b": (8,)}
    weights = [numpy_helper.from_array(np.ones(n, np.float32), k) for k, n in sizes.items()]
    graph = helper.make_graph(nodes, "m", [], [], weights)
    assert instance_norm.by_plugin(graph, {}) == 1
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["c", "to"], ["r"]), *nodes[:2], nodes[3]],
        "m",
        [],
        [],
        weights,
    )
    assert instance_norm.by_plugin(graph, {}) == 0
    with pytest.raises(Exception, match=r"its rank cannot be told"):
        instance_norm.by_layer_norm(graph, {})


def test_bytes_are_widened_and_their_values_stay(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["f"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bytes",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "given.onnx")
    given = GpuModel(
        None, {"x": ("batch", 4)}, {"x": "uint8"}, ("y",), onnx=tmp_path / "given.onnx"
    )
    onnx_file.convert(given, tmp_path / "m.onnx")
    bytes_ = np.array([[0, 1, 200, 255]], np.uint8)
    found = answer(tmp_path / "m.onnx", x=bytes_.astype(np.float32))
    np.testing.assert_array_equal(found, bytes_)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A 3-D network with InstanceNorm, as its engine's ONNX file in 32 bits."""
    given = built.model(built.Volume, "batch", 1, 16, 16, 16)
    path = tmp_path_factory.mktemp("typed") / "engine.onnx"
    onnx_file.convert(given.for_gpu(), path)
    return given, path


def test_16_bits_are_in_the_file_and_close_enough(
    whole: tuple[Model, Path], tmp_path: Path
) -> None:
    given, path = whole
    typed.half(path, tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    kinds = {t.data_type for t in graph.initializer if len(t.dims) == 5}
    assert kinds == {TensorProto.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    x = given.random_inputs(4, batch=2)
    want = given.ask(x)["output"]
    assert 0 < built.relative_l2(want, answer(tmp_path / "half.onnx", **x)) < 1e-2


def test_int8_is_in_the_file_and_close_enough(whole: tuple[Model, Path], tmp_path: Path) -> None:
    given, path = whole
    typed.quantised(path, tmp_path / "q.onnx", [given.random_inputs(i) for i in range(8)])
    graph = onnx.load(tmp_path / "q.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") >= 2
    zeros = [t for t in graph.initializer if "zero_point" in t.name]
    assert zeros
    assert all(t.data_type == TensorProto.INT8 for t in zeros)  # TensorRT takes no others
    x = given.random_inputs(40)
    want = given.ask(x)["output"]
    assert 0 < built.relative_l2(want, answer(tmp_path / "q.onnx", **x)) < 0.15
    typed.half(tmp_path / "q.onnx", tmp_path / "both.onnx")
    assert built.relative_l2(want, answer(tmp_path / "both.onnx", **x)) < 0.15


def test_int8_without_calibration_is_refused(whole: tuple[Model, Path], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="int8 needs inputs to calibrate on"):
        typed.quantised(whole[1], tmp_path / "q.onnx", [])
