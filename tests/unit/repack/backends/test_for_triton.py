"""Artefacts as files for Triton's own backends: cut to the outputs that are rows of a batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from deploy.triton import config, native
from handlers.artefact import Artefact, OnnxRuntimeOptions, OpenVinoOptions, TensorRTOptions
from handlers.errors import KitError
from handlers.passport import Passport, TensorSpec
from repack.backends import BACKENDS
from tests.support.archives import RECORD
from tests.support.detector_maps import HEAD, SETTINGS

PROFILE = {"images": ((1, 3, 64, 64), (4, 3, 64, 64), (8, 3, 64, 64))}


def two_outputs(path: Path) -> Path:
    """``x`` doubled as ``rows``, and as many values as are positive as ``found``."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["rows"]),
        helper.make_node("Greater", ["rows", "zero"], ["positive"]),
        helper.make_node("Compress", ["rows", "flat"], ["found"]),
        helper.make_node("Reshape", ["positive", "all"], ["flat"]),
    ]
    nodes[2], nodes[3] = nodes[3], nodes[2]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
        helper.make_tensor("all", TensorProto.INT64, [1], [-1]),
    ]
    shapes: dict[str, list[str | int]] = {"x": ["n", 3], "rows": ["n", 3], "found": ["k"]}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "two", values[:1], values[1:], constants)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    return path


def run_onnx(path: Path, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    import onnxruntime as ort

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def run_openvino(path: Path, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    import openvino as ov

    compiled = ov.Core().compile_model(str(path), "CPU")
    return {o.get_any_name(): v for o, v in compiled({"x": x}).items()}


@pytest.mark.parametrize(
    ("name", "options", "run"),
    [
        ("onnxruntime", OnnxRuntimeOptions(), run_onnx),
        ("openvino", OpenVinoOptions(), run_openvino),
    ],
)
def test_a_file_is_cut_to_the_outputs_that_triton_can_batch(
    tmp_path: Path, name: str, options: Any, run: Any
) -> None:
    source = two_outputs(tmp_path / "model.onnx")
    file = source.name
    if name == "openvino":
        import openvino as ov

        file = "ir.xml"
        ov.save_model(ov.convert_model(source), str(tmp_path / file), compress_to_fp16=False)
    artefact = Artefact(name, (file,), "f32", {}, "tensors", options)
    backend = BACKENDS[name]
    assert backend.triton is not None
    target = tmp_path / "cut" / backend.triton.file
    target.parent.mkdir()
    backend.for_triton(tmp_path, artefact, ["rows"], target)
    x = np.array([[1, -2, 3], [0, 5, -6]], np.float32)
    found = run(target, x)
    assert list(found) == ["rows"]
    np.testing.assert_array_equal(found["rows"], 2 * x)


def engine(**changed: Any) -> Artefact:
    given = {"outputs": ("y",), "built": {}, "engines": (PROFILE,), "via": "onnx", **changed}
    return Artefact("tensorrt", ("a.engine",), "f16", {}, "tensors", TensorRTOptions(**given))


@pytest.mark.parametrize(
    ("changed", "words"),
    [({"batches": (1, 4)}, "for the batches (1, 4)"), ({"via": "torch2trt"}, "torch2trt")],
)
def test_an_engine_without_a_profile_is_refused(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(KitError) as refused:
        BACKENDS["tensorrt"].for_triton(tmp_path, engine(**changed), ["y"], tmp_path / "x")
    assert words in str(refused.value)


def detector(artefact: Artefact, **changed: Any) -> Passport:
    image = TensorSpec("images", "uint8", ("batch", 64, 64, 3), layout="NHWC")
    return replace(
        RECORD, task="detection", inputs=(image,), settings=SETTINGS,
        artefacts={"accelerated": artefact}, **changed,
    )  # fmt: skip


def test_a_detector_on_tensorrt_ends_in_raw_maps_and_takes_pixels(tmp_path: Path) -> None:
    artefact = engine(pixels=("images",))
    told = native.network(detector(artefact), artefact)
    assert told.batched
    assert told.most == 8
    assert told.inputs == (config.Spec("images", "float32", (-1, 3, 64, 64)),)
    assert [s.shape for s in told.outputs] == [
        (-1, 3, cells, cells, HEAD.values) for cells in (8, 4, 2)
    ]
    serving = config.Serving(
        gpu=True, instances=2, threads=1, batch=8, batches=(), delay_us=1000, queue=5
    )  # fmt: skip
    backend = native.backend_of(artefact).triton
    assert backend is not None
    text = config.text(config.network("fd1_network", serving, told, backend))
    for line in ('backend: "tensorrt"', "max_batch_size: 8", "kind: KIND_GPU", "dims: 64"):
        assert line in text
    assert "max_queue_size" not in text
    (tmp_path / "a.engine").write_bytes(b"engine")
    BACKENDS["tensorrt"].for_triton(tmp_path, artefact, ["y"], tmp_path / backend.file)
    assert (tmp_path / "model.plan").read_bytes() == b"engine"


def test_a_model_whose_first_axis_is_no_batch_is_not_batched() -> None:
    artefact = replace(engine(), runtime="onnxruntime", options=OnnxRuntimeOptions())
    inputs = (TensorSpec("x", "float32", ("n", 3)), TensorSpec("rate", "int64", ()))
    told = native.network(replace(RECORD, task="classification", inputs=inputs), artefact)
    assert not told.batched
    assert native.network(
        replace(RECORD, task="classification", inputs=inputs[:1]), artefact
    ).batched
    assert not native.network(replace(RECORD, inputs=inputs[:1]), artefact).batched
    assert [spec.dims(False) for spec in told.inputs] == [(-1, 3), ()]


def test_a_runtime_that_triton_has_nothing_for() -> None:
    with pytest.raises(KitError, match="--native: Triton is given no torchscript"):
        native.backend_of(RECORD.artefacts["portable"])
