"""TensorFlow SavedModels: operators looked at before TensorFlow is, then tf2onnx for real."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from handlers.errors import KitError
from repack.sources import savedmodel, savedmodel_graph
from repack.sources.errors import UnreadableFile, UnsupportedLayout
from tests.support import made
from tests.support.loading import load

MAKER = made.ROOT / "tests" / "support" / "savedmodel_maker.py"


def field(number: int, value: bytes) -> bytes:
    """One protocol-buffer field of bytes."""
    size, length = len(value), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def node(operator: str, name: str = "n") -> bytes:
    return field(1, name.encode()) + field(2, operator.encode())


def function(name: str, *operators: str, also: bytes = b"") -> bytes:
    nodes = b"".join(field(3, node(o)) for o in operators)
    return field(1, field(1, field(1, name.encode())) + nodes + also)


def model(*functions: bytes, top: bytes = b"", objects: bytes = b"objects") -> bytes:
    graph = top + field(2, b"".join(functions))
    return field(2, field(2, graph) + field(7, field(1, objects)))


CALL = function("call", "Conv2D", "Relu")
SAVER = function("traced_save", "SaveV2", "MergeV2Checkpoints", "ShardedFilename")


def refusal(data: bytes) -> str:
    with pytest.raises(UnsupportedLayout) as caught:
        savedmodel_graph.check(Path("net"), data)
    return str(caught.value)


def test_a_model_that_only_computes_passes() -> None:
    caller = field(1, node("StatefulPartitionedCall") + field(5, b"traced_save"))
    savedmodel_graph.check(Path("net"), model(CALL, SAVER, top=caller))


@pytest.mark.parametrize(
    "operator",
    [
        "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "EagerPyFunc", "PyFuncStateless",
        "PrintV2", "TextLineReaderV2", "TFRecordDataset", "DebugIdentityV3", "_Send", "RemoteCall",
        "CreateSummaryFileWriter", "InitializeTableFromTextFileV2", "CollectiveReduce",
    ],
)  # fmt: skip
def test_an_operator_that_reaches_outside_is_refused_by_name(operator: str) -> None:
    words = refusal(model(CALL, function("other", operator)))
    assert words.startswith(f"net: operator {operator} (node 'n' of 'other') reaches outside")
    words = refusal(model(CALL, top=field(1, node(operator, "a/b"))))
    assert f"operator {operator} (node 'a/b') reaches outside" in words


def test_a_saver_that_the_model_itself_calls_is_refused() -> None:
    call = field(3, node("PartitionedCall") + field(5, b"...traced_save..."))
    caller = function("call", "Conv2D", also=call)
    assert "operator SaveV2 (node 'n' of 'traced_save')" in refusal(model(caller, SAVER))
    assert "operator SaveV2" in refusal(model(CALL, SAVER, objects=b"initializer: traced_save"))


def test_a_graph_in_two_parts_is_read_whole() -> None:
    """TensorFlow adds repeated parts up; whoever reads the last one only misses the first."""
    bad = field(2, field(2, function("other", "ReadFile")))
    good = field(2, field(2, CALL))
    assert "ReadFile" in refusal(field(2, bad + good + field(7, b"o")))
    assert "ReadFile" in refusal(field(2, good + bad + field(7, b"o")))
    halves = function("other", "Relu") + function("other", "ReadFile")
    assert "ReadFile" in refusal(model(halves))
    assert "ReadFile" in refusal(model(function("other", "ReadFile") + function("other", "Relu")))


def test_other_layouts_are_refused() -> None:
    assert "holds 0 graphs" in refusal(b"")
    assert "holds 2 graphs" in refusal(model(CALL) * 2)
    assert "saved by TensorFlow 1" in refusal(field(2, field(2, field(2, CALL))))
    for damaged in (model(CALL)[:-3], b"\xff" * 12, b"\x0b\x00", b"\x12"):
        with pytest.raises(UnreadableFile, match="damaged or no SavedModel"):
            savedmodel_graph.check(Path("net"), damaged)


def folder(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / savedmodel.MODEL).write_bytes(data)
    return tmp_path / "net"


def test_without_tensorflow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(savedmodel.VARIABLE, raising=False)
    path = folder(tmp_path, model(CALL))
    if not importlib.util.find_spec("tensorflow"):
        with pytest.raises(KitError, match=r"pip install -r requirements-tensorflow\.txt"):
            load(path)
    with pytest.raises(KitError, match="no program there"):
        load(path, tensorflow_python=tmp_path / "none")
    with pytest.raises(KitError, match="no --network"):
        load(path, "a:B")
    monkeypatch.setenv(savedmodel.VARIABLE, sys.executable)
    if not importlib.util.find_spec("tf2onnx"):
        with pytest.raises(KitError, match=r"has no tf2onnx: install requirements-tensorflow"):
            load(path)


def test_a_folder_without_a_saved_model_is_still_a_folder(tmp_path: Path) -> None:
    with pytest.raises(KitError, match="a folder, expected a file"):
        load(tmp_path)


def tensorflow_python() -> str:
    """The Python that has TensorFlow; skips the test where there is none."""
    if named := os.environ.get(savedmodel.VARIABLE):
        return named
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tf2onnx"):
        return sys.executable
    pytest.skip(f"needs TensorFlow: requirements-tensorflow.txt, and {savedmodel.VARIABLE}")


def save(kind: str, target: Path) -> Path:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [tensorflow_python(), "-I", str(MAKER), kind, str(target)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | quiet)
    return target


@pytest.mark.slow
def test_a_real_saved_model_answers_like_tensorflow(tmp_path: Path) -> None:
    path = save("plain", tmp_path / "plain")
    source = load(path, tensorflow_python=Path(tensorflow_python()))
    assert (source.family, source.network, source.module) == ("savedmodel", "plain", None)
    assert source.path == path
    session = ort.InferenceSession(source.graph, providers=["CPUExecutionProvider"])
    kept = np.load(f"{path}.npz")
    (found,) = session.run(None, {session.get_inputs()[0].name: kept["given"]})
    np.testing.assert_allclose(found, kept["answer"], rtol=1e-4, atol=1e-6)

    classes = ("--task", "classification", "--mean", "0", "--std", "1", "--name", "plain")
    flags = ("--weights", path, "--tensorflow-python", tensorflow_python(), *classes)
    done = made.repack(*flags, "--model-store", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "savedmodel plain, task classification" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ReadFile", "PyFunc"])
def test_a_real_saved_model_that_reaches_outside(tmp_path: Path, kind: str) -> None:
    path = save(kind, tmp_path / "bad")
    with pytest.raises(UnsupportedLayout, match=rf"operator (Eager)?{kind} \(node '.*reaches outs"):
        load(path, tensorflow_python=Path("/bin/false"))


@pytest.mark.slow
def test_an_operator_without_an_onnx_form_is_named(tmp_path: Path) -> None:
    path = save("Bessel", tmp_path / "bessel")
    with pytest.raises(UnsupportedLayout, match=r"no ONNX form of operator BesselI0 \(node '"):
        load(path, tensorflow_python=Path(tensorflow_python()))
