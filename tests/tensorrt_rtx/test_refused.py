"""What TensorRT refuses, in its own words on one line, with the node that it means."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from handlers.engines.build import BuildFailed, Job, Log, build
from handlers.errors import RuntimeUnfit
from handlers.runtimes.tensorrt_ import TensorRT
from repack.backends.tensorrt.reasons import with_node
from tests.support.engines import artefact

SHAPE = (1, 3, 8, 8)


def job(path: Path, first: str = "Relu") -> Job:
    """For a file in which ``x`` goes through an operator and a convolution."""
    nodes = [
        helper.make_node(first, ["x"], ["a"], "the first"),
        helper.make_node("Conv", ["a", "w"], ["y"], "the second"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path / "m.onnx")
    return Job(str(path / "m.onnx"), "", "f32", {"x": (SHAPE, SHAPE, SHAPE)})


def reason(given: Job) -> str:
    with pytest.raises(BuildFailed) as refused:
        build(given)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_operator_that_it_does_not_know_is_named(rtx: Any, tmp_path: Path) -> None:
    given = job(tmp_path, "Wavelet")
    said = with_node(Path(given.onnx), reason(given))
    assert said.startswith("TensorRT's ONNX parser: node 0: ")
    assert "Wavelet" in said
    assert "node 'the first'" in said


def test_a_shape_that_is_not_the_models_is_named(rtx: Any, tmp_path: Path) -> None:
    wide = (1, 3, 8, 9)
    said = reason(replace(job(tmp_path), profiles={"x": (wide,) * 3}))
    assert "Dimension mismatch for tensor x" in said


def test_too_little_workspace_is_named(rtx: Any, tmp_path: Path) -> None:
    said = reason(replace(job(tmp_path), workspace=0))
    assert "workspace" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the reason is another")
def test_an_engine_is_not_loaded_without_a_driver(rtx: Any, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(build(job(tmp_path)).engine)
    runtime = TensorRT(tmp_path, replace(artefact("f32"), files=("model.plan",)), ())
    runtime.trt, runtime.log = rtx, Log(rtx)
    runtime._runtime = rtx.Runtime(runtime.log.sink)
    with pytest.raises(RuntimeUnfit, match=r"^model.plan: TensorRT 1\.7.* refuses it \(.*driver"):
        runtime._engine(tmp_path / "model.plan")
