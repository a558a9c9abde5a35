"""TorchScript, ONNX, state dicts of any network, and files that are nothing of the kind."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from repack.sources import NetworkMismatch, SourceError, UnreadableFile, UnsupportedLayout
from tests.support.loading import load

NETS = '''
import torch
from torch import nn


class Net(nn.Module):
    """A network for the test."""

    def __init__(self, width=4):
        super().__init__()
        self.line = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.norm(self.line(x))


class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()


NUMBER = 7
'''


class Doubler(nn.Module):
    """Twice the input, with a parameter in fp16."""

    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Parameter(torch.tensor([2.0]).half())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.two


def test_torchscript_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.warns(DeprecationWarning):
        torch.jit.save(torch.jit.script(Doubler()), str(path))
    source = load(path)
    assert (source.family, source.network, source.task) == ("torchscript", "Doubler", "tensors")
    assert source.labels == ()
    assert source.module is not None
    assert not source.module.training
    assert not any(p.requires_grad for p in source.module.parameters())
    answer = source.module(torch.ones(2))
    assert answer.dtype == torch.float32
    assert answer.tolist() == [2.0, 2.0]
    with pytest.raises(NetworkMismatch, match="TorchScript file, which carries its own network"):
        load(path, "nets:Net")


def test_a_damaged_torchscript_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"nonsense")
        archive.writestr("model/data.pkl", b"nonsense")
    with pytest.raises(UnreadableFile, match="TorchScript file that torch") as refusal:
        load(path)
    assert str(refusal.value).isprintable()


def onnx_model() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_onnx_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(onnx_model().SerializeToString())
    source = load(path)
    assert (source.family, source.network, source.task) == ("onnx", "small", "tensors")
    assert source.module is None
    with pytest.raises(NetworkMismatch, match="ONNX file, which carries its own network"):
        load(path, "nets:Net")


def test_a_truncated_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    whole = onnx_model().SerializeToString()
    for length in (2, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(SourceError) as refusal:
            load(path)
        assert str(refusal.value).isprintable()


def test_an_invalid_onnx_graph(tmp_path: Path) -> None:
    model = onnx_model()
    model.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedLayout, match=r"onnx\.checker refuses it .*NoSuchOperator"):
        load(tmp_path / "model.onnx")


def with_external(folder: Path, location: str, offset: int = 0, inside: bool = False) -> Path:
    """A model whose weights are in ``location``; ``inside`` a subgraph's constant instead."""
    model = onnx_model()
    tensor = model.graph.initializer[0]
    if inside:
        tensor = (
            model.graph.node.add(op_type="Constant", output=["c"])
            .attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
            .t
        )
        tensor.CopyFrom(model.graph.initializer[0])
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": "64"}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    assert load(with_external(tmp_path, "weights.bin")).network == "small"


@pytest.mark.parametrize("inside", [False, True], ids=["initializer", "constant"])
@pytest.mark.parametrize(
    "location",
    ["../secret", "sub/../../secret", "/etc/passwd", "link", "C:\\secret", "..\\secret", ""],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str, inside: bool) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="own folder; refused"):
        load(with_external(folder, location, inside=inside))


def test_external_data_that_is_missing_or_short(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="not beside it"):
        load(with_external(tmp_path, "weights.bin"))
    (tmp_path / "weights.bin").write_bytes(bytes(64))
    with pytest.raises(UnreadableFile, match="end at byte 72, the file has 64"):
        load(with_external(tmp_path, "weights.bin", offset=8))


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with networks in the current folder; its name."""
    name = "nets_of_the_test"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


def state() -> dict[str, torch.Tensor]:
    line, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    return {f"line.{k}": v for k, v in line.state_dict().items()} | {
        f"norm.{k}": v for k, v in norm.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "network_weights"])
def test_a_state_dict_and_its_class(
    tmp_path: Path, nets: str, prefix: str, key: str | None
) -> None:
    tensors = {prefix + k: v.half() if v.is_floating_point() else v for k, v in state().items()}
    torch.save({key: tensors, "epoch": 1} if key else tensors, tmp_path / "s.pt")
    before = list(sys.path)
    source = load(tmp_path / "s.pt", f"{nets}:Net")
    assert sys.path == before
    assert (source.family, source.network, source.task) == ("state_dict", "Net", "tensors")
    assert source.module is not None
    assert not source.module.training
    for name, tensor in source.module.state_dict().items():
        assert torch.equal(tensor, tensors[prefix + name].to(tensor.dtype))
        assert tensor.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("Net", "expected module:Class"),
        ("nets:", "expected module:Class"),
        ("a b:Net", "expected module:Class"),
        ("no_such_module:Net", "ModuleNotFoundError"),
        ("nets_of_the_test:Nothing", "has no 'Nothing'"),
        ("nets_of_the_test:NUMBER", "no torch.nn.Module"),
        ("nets_of_the_test:Needs", "without arguments"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_a_network_that_cannot_be_had(tmp_path: Path, network: str, words: str) -> None:
    torch.save(state(), tmp_path / "s.pt")
    with pytest.raises(NetworkMismatch, match=words) as refusal:
        load(tmp_path / "s.pt", network)
    assert str(refusal.value).isprintable()


def test_a_state_dict_of_another_network(tmp_path: Path, nets: str) -> None:
    tensors = state()
    tensors["line.weight"] = torch.zeros(9, 3)
    tensors["tail.weight"] = tensors.pop("norm.weight")
    torch.save(tensors, tmp_path / "s.pt")
    with pytest.raises(UnsupportedLayout) as refusal:
        load(tmp_path / "s.pt", f"{nets}:Net")
    for words in (
        "1 missing (norm.weight)",
        "line.weight is [9, 3], expected [4, 3]",
        "1 unexpected (tail.weight [4])",
    ):
        assert words in str(refusal.value)


PICTURE = b"\xff\xd8\xff\xe0" + bytes(20)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>", "web|HTML"),
        (b"\n\n  <html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a":1}', "safetensors"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (PICTURE, "JPEG"),
        (bytes(257) + b"ustar\x0000", "tar file"),
        (b"PK\x03\x04 and then nothing", "has no end"),
        (b"import torch\nprint(1)\n", "starts with"),
        (b"hello", "starts with"),
        (b"\x80\x02N.", "plain pickle of a NoneType"),
        (b"\x80", "damaged"),
        (b"\x08\x08 no model", "ONNX"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words) as refusal:
        load(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["MAR-INF/MANIFEST.json"], "TorchServe archive"),
        (["m/archive_format", "m/models/model.json"], "torch.export"),
        (["a.txt", "b.txt"], "a zip holding a.txt, b.txt"),
        ([], "a zip holding nothing"),
        (["a/data.pkl", "b/data.pkl"], "2 data.pkl"),
    ],
)
def test_other_zip_files(tmp_path: Path, names: list[str], words: str) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(SourceError, match=words):
        load(path)


def test_places_that_are_no_file(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="a folder"):
        load(tmp_path)
    with pytest.raises(UnreadableFile, match="no such file"):
        load(tmp_path / "nothing.pt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableFile, match="not a plain file"):
        load(tmp_path / "pipe")
