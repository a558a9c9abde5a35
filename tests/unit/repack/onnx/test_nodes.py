"""An operator that a runtime does not take is named with its node, and the runtime that does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repack.onnx import nodes as operators
from tests.support import made
from tests.support.isa import environment, has_bf16


def model(last: str = "Det", domain: str = "", name: str = "head/det") -> ModelProto:
    """A convolution, a sum with itself, then the operator: OpenVINO does not know ``Det``."""
    weights = np.random.default_rng(0).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], "body/conv", pads=[1] * 4),
            helper.make_node("Sum", ["a", "a"], ["b"], "body/conv/sum"),
            helper.make_node(last, ["b"], ["y"], name, domain=domain),
        ],
        "determinants",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    sets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(model(), tmp_path / "det.onnx")
    return tmp_path / "det.onnx"


DET = "operator Det, node 'head/det' (fed by Sum 'body/conv/sum')"
CONV = "operator Conv, node 'body/conv' (fed by input 'x' and weight 'w')"


@pytest.mark.parametrize(("which", "line"), [("Det", DET), ("head/det", DET), ("body/conv", CONV)])
def test_a_node_in_words(path: Path, which: str, line: str) -> None:
    assert operators.describe(path, which) == line


def test_a_node_that_is_not_there(path: Path) -> None:
    assert operators.describe(path, "Foo") == "'Foo', which is no node of the graph"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("No conversion rule found for operations: Det-20", DET),
        ("ERROR: node head/det (Det) failed", DET),
        ("fault in node body/conv", CONV),
        ("fault in node body/conv/other", None),
        ("Sum of sizes differs", None),
        ("In node 1 (importSum): UNSUPPORTED_NODE: 'Sum' is not", "operator Sum"),
        ("Could not find an implementation for Det(11) node with name ''", DET),
        ("Detached", None),
    ],
)
def test_the_node_that_a_message_names(path: Path, message: str, line: str | None) -> None:
    found = operators.named_in(path, message)
    assert found == line or (line and found and found.startswith(f"{line},"))


def test_a_node_without_a_name_and_its_likes(tmp_path: Path) -> None:
    twice = model(name="")
    twice.graph.node.append(helper.make_node("Det", ["a"], ["z"], "other"))
    onnx.save(twice, tmp_path / "a.onnx")
    line = operators.describe(tmp_path / "a.onnx", "Det")
    assert line == ("operator Det, node '-> y' (fed by Sum 'body/conv/sum'), and 1 more such nodes")


def test_auto_goes_on_with_the_runtimes_that_take_it(path: Path, isa: str) -> None:
    flags = ("--weights", path, "--name", "det", "--model-store", path.parent)
    done = made.repack(*flags, variables=environment(isa))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(DET) == (2 if has_bf16(isa) else 1)  # OpenVINO in f32 and bf16
    assert done.stdout.strip().endswith("det.mar")


def test_one_runtime_asked_for_names_the_one_that_takes_it(path: Path) -> None:
    flags = ("--weights", path, "--backend", "openvino", "--name", "det")
    done = made.repack(*flags, "--model-store", path.parent)
    assert done.returncode == 1
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    assert line.startswith("error: openvino f32: OpenVINO does not take this model (")
    assert DET in line
    assert "onnxruntime f32 takes this model and passed the gate: use --backend onnxruntime" in line
    assert not list(path.parent.glob("*.mar"))


def test_what_onnx_runtime_cannot_run_is_named_too(tmp_path: Path) -> None:
    onnx.save(model("Nonsense", "my.ops"), tmp_path / "a.onnx")
    done = made.repack("--weights", tmp_path / "a.onnx", "--model-store", tmp_path / "store")
    assert done.returncode == 1
    (line,) = (x for x in done.stderr.splitlines() if x.startswith("error: "))
    assert "operator my.ops.Nonsense, node 'head/det' (fed by Sum 'body/conv/sum')" in line
