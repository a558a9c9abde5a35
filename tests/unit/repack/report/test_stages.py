"""Stages keep the graph's connections and lose no operator, whatever its modules."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from repack.report import stages
from tests.support import made


def saved(
    folder: Path, nodes: Sequence[NodeProto], inputs: Sequence[str], outputs: Sequence[str]
) -> Path:
    """An ONNX file of values of two numbers each, and a weight ``w`` of six."""
    given, gives = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in names]
        for names in (inputs, outputs)
    )
    weight = numpy_helper.from_array(np.zeros((3, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "made", given, gives, [weight])
    path = folder / "made.onnx"
    onnx.save(helper.make_model(graph), path)
    return path


def node(module: str, op: str, reads: Sequence[str], gives: str) -> NodeProto:
    """One that is named as PyTorch's exporters name it."""
    return helper.make_node(
        op, reads, [gives], f"/{module.replace('.', '/')}/{op}" if module else ""
    )


def arrows(found: dict[str, Any]) -> set[tuple[str, str]]:
    """From title to title."""
    titles = [s["title"] for s in found["stages"]]
    return {(s["title"], titles[to]) for s in found["stages"] for to in s["after"]}


def test_a_plain_onnx_file_is_a_chain() -> None:
    found = stages.of_model(made.tiny_onnx(), {})
    assert found["nodes"] == 3
    assert found["operators"] == {"Conv": 2, "Relu": 1}
    assert found["weights"] == 16 * 3 * 9 + 4 * 16 * 9
    assert [(s["kind"], s["title"], s["shape"]) for s in found["stages"]] == [
        ("input", "x", "batch x 3 x 8 x 8"),
        ("stage", "first to second", "batch x 4 x 8 x 8"),
        ("output", "y", "batch x 4 x 8 x 8"),
    ]
    assert [s["after"] for s in found["stages"]] == [[1], [2], []]


def u_shaped(folder: Path) -> Path:
    """Two levels down and up again; the joining node was made outside of any module."""
    nodes = [
        node("net.down.0", "Mul", ["x", "w"], "a"),
        node("net.down.1", "Mul", ["a", "w"], "b"),
        node("net.down.1", "Relu", ["b"], "c"),
        node("net.up", "Neg", ["c"], "d"),
        node("", "Concat", ["a", "d"], "e"),
        node("net.head", "Add", ["e", "w"], "f"),
        helper.make_node("Neg", ["f"], ["y"], "nms_Neg_0"),
    ]
    nodes[4].attribute.append(helper.make_attribute("axis", 0))
    return saved(folder, nodes, ["x"], ["y"])


def test_modules_are_stages_and_skips_stay(tmp_path: Path) -> None:
    found = stages.of_model(u_shaped(tmp_path), {})
    assert arrows(found) == {
        ("x", "net.down.0"),
        ("net.down.0", "net.down.1"),
        ("net.down.0", "net.up"),
        ("net.down.1", "net.up"),
        ("net.up", "net.head"),
        ("net.head", "decoding and suppression"),
        ("decoding and suppression", "y"),
    }
    up = next(s for s in found["stages"] if s["title"] == "net.up")
    assert up["operators"] == {"Concat": 1, "Neg": 1}, "what joins belongs to what feeds it last"
    assert [s["weights"] for s in found["stages"]] == [0, 6, 6, 0, 6, 0, 0]
    assert found["weights"] == 6, "a weight that three read is one weight"


def test_the_exports_own_record_of_modules_comes_first(tmp_path: Path) -> None:
    scopes = {"a": "one", "b": "two", "c": "two", "d": "two", "e": "two", "f": "three"}
    found = stages.of_model(u_shaped(tmp_path), scopes)
    assert [s["title"] for s in found["stages"]][1:4] == ["one", "two", "three"]


def test_a_module_that_is_called_twice_is_one_stage_with_what_lies_between(tmp_path: Path) -> None:
    calls = [("act", "x", "a"), ("conv", "a", "b"), ("act", "b", "c"), ("end", "c", "y")]
    nodes = [node(module, "Neg", [reads], gives) for module, reads, gives in calls]
    found = stages.of_model(saved(tmp_path, nodes, ["x"], ["y"]), {})
    assert arrows(found) == {("x", "act and conv"), ("act and conv", "end"), ("end", "y")}
    assert found["stages"][1]["operators"] == {"Neg": 3}


def test_constants_of_several_numbers_are_weights_and_a_resizes_factors_are_not(
    tmp_path: Path,
) -> None:
    four, one = (numpy_helper.from_array(np.zeros(n, np.float32)) for n in ((2, 2), ()))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=four),
        helper.make_node("Constant", [], ["e"], value=one),
        helper.make_node("Neg", ["c"], ["d"]),
        helper.make_node("Sum", ["x", "d", "e"], ["a"]),
        helper.make_node("Resize", ["a", "", "w"], ["y"]),
    ]
    found = stages.of_model(saved(tmp_path, nodes, ["x"], ["y"]), {})
    assert found["weights"] == 4
    assert found["operators"] == {"Resize": 1, "Sum": 1}


def test_an_input_that_is_an_output_and_a_constant_output(tmp_path: Path) -> None:
    """Odd, but valid: a value passed through, and one that depends on no input."""
    nodes = [helper.make_node("Neg", ["w"], ["y"])]
    found = stages.of_model(saved(tmp_path, nodes, ["x"], ["x", "y"]), {})
    assert found["nodes"] == 0
    assert [s["title"] for s in found["stages"]] == ["x", "x", "y"]
    assert [s["after"] for s in found["stages"]] == [[1], [], []]


def test_a_graph_that_cannot_be_read_keeps_its_table_of_operators(tmp_path: Path) -> None:
    """130 branches that meet in no common place."""
    nodes = [helper.make_node("Neg", ["x"], [f"y{i}"]) for i in range(130)]
    found = stages.of_model(saved(tmp_path, nodes, ["x"], [f"y{i}" for i in range(130)]), {})
    assert found["none"] == "261 stages are more than the 120 that can be read"
    assert found["operators"] == {"Neg": 130} and "stages" not in found


@pytest.mark.parametrize("seed", range(12))
def test_folding_keeps_every_connection_and_closes_no_circle(tmp_path: Path, seed: int) -> None:
    """Of a random graph: mostly chains, with branches, jumps and modules that come again."""
    rng = random.Random(seed)  # noqa: S311
    feeds = {
        i: {i - 1, *rng.sample(range(i), k=min(i, rng.choice([0, 0, 1])))} for i in range(1, 60)
    }
    module = [f"part{i // 6 % rng.choice([7, 20])}" for i in range(60)]
    nodes = [
        node(module[i], "Sum", [f"v{f}" for f in sorted(feeds.get(i, ()))] or ["x"], f"v{i}")
        for i in range(60)
    ]
    path = saved(tmp_path, nodes, ["x"], ["v59"])
    found = stages.of_model(path, {})
    drawn = nx.DiGraph((i, to) for i, s in enumerate(found["stages"]) for to in s["after"])
    assert nx.is_directed_acyclic_graph(drawn)
    assert all(i < to for i, to in drawn.edges), "read from the top down"
    counts = sum((Counter(s["operators"]) for s in found["stages"]), Counter())
    assert counts == Counter(found["operators"]) == Counter(n.op_type for n in nodes)
    parts, flow = stages._parts(onnx.load(path).graph, {})
    folded = stages._folded(flow, parts, 1)
    owner = {i: stage for stage in folded for i in stage}  # the input is 0, the output 61
    assert sorted(owner) == list(range(62))
    edges = {(0, 1), (60, 61)} | {(a + 1, b + 1) for b, before in feeds.items() for a in before}
    between = {(owner[a], owner[b]) for a, b in edges if owner[a] != owner[b]}
    assert between == set(folded.edges)
