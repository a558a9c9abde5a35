"""The operator table is derived from the export, and nothing of its notes stays in the file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from repack.onnx import export, operators
from repack.raw_tensors import tensors
from repack.sources import Source
from tests.support.reports import GroupNormNet


def exported(module: nn.Module, folder: Path) -> tuple[dict[str, Any], onnx.ModelProto]:
    source = Source(module, "state_dict", "Net", (), folder / "net", "0" * 64, "tensors")
    path = folder / "exported.onnx"
    export.convert(tensors(source, {"x": ("batch", 3, 16, 16)}), path)
    found = operators.read(path)
    assert found is not None
    return found, onnx.load(path)


def rows(found: dict[str, Any]) -> dict[tuple[str, ...], tuple[list[str], str, int]]:
    return {tuple(r["before"]): (sorted(r["after"]), r["kind"], r["count"]) for r in found["rows"]}


def net() -> nn.Module:
    torch.manual_seed(2)
    return GroupNormNet().eval().requires_grad_(False)


GROUP_NORM = ["Add", "InstanceNormalization", "Mul", "Reshape", "Reshape", "Shape"]


def test_every_operator_of_an_exported_module(tmp_path: Path) -> None:
    found, model = exported(net(), tmp_path)
    merged = ("aten::conv2d", "aten::_native_batch_norm_legit_no_training")
    assert rows(found) == {
        merged: (["Conv"], "many-to-one", 1),
        ("aten::silu",): (["Mul", "Sigmoid"], "one-to-many", 1),
        ("aten::group_norm",): (GROUP_NORM, "one-to-many", 1),
        ("aten::mean",): (["ReduceMean"], "one-to-one", 1),
        ("aten::linear",): (["Gemm"], "one-to-one", 1),
    }
    counted = [n.op_type for n in model.graph.node if n.op_type != "Constant"]
    assert sum(found["after"].values()) == len(counted)
    assert sum(len(r["after"]) * r["count"] for r in found["rows"]) == len(counted)


def test_every_operator_of_a_scripted_module(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net(), torch.zeros(1, 3, 16, 16))
    capfd.readouterr()
    found, _ = exported(traced, tmp_path)
    assert capfd.readouterr().out == "", "standard output is for results"
    assert rows(found) == {
        ("aten::_convolution",): (["Conv"], "one-to-one", 1),
        ("aten::batch_norm",): ([], "no node of its own", 1),
        ("aten::silu",): (["Mul", "Sigmoid"], "one-to-many", 1),
        ("aten::group_norm",): (GROUP_NORM, "one-to-many", 1),
        ("aten::mean",): (["ReduceMean"], "one-to-one", 1),
        ("aten::linear",): (["Gemm"], "one-to-one", 1),
    }


def test_layers_that_share_a_line_of_code_count_one_by_one(tmp_path: Path) -> None:
    stack = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(5))).eval().requires_grad_(False)
    found, _ = exported(stack, tmp_path)
    assert rows(found) == {("aten::conv2d",): (["Conv"], "one-to-one", 5)}
    assert set(found["scopes"].values()) == {"0", "1", "2", "3", "4"}


def test_no_note_of_the_exporter_stays_in_the_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(net())
    for i, module in enumerate((net(), scripted)):
        folder = tmp_path / str(i)
        folder.mkdir()
        _, model = exported(module, folder)
        loops = [a.g for n in model.graph.node for a in n.attribute if a.HasField("g")]
        assert bool(loops) == (i == 1), "group norm's check of its sizes is a loop, if scripted"
        for graph in (model.graph, *loops):
            assert not [n for n in graph.node if n.doc_string or n.metadata_props]
        data = model.SerializeToString()
        assert b"site-packages" not in data and str(Path(__file__).parents[4]).encode() not in data
