"""Folding keeps a graph's shape; the layout lets nothing touch."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from repack.report import blocks, drawing
from repack.report.folding import Block, Folding
from repack.report.layout import place
from tests.support import made

Edges = set[tuple[int, int]]


def graph(seed: int, count: int = 60) -> dict[int, Block]:
    """A random graph without circles: mostly chains, with branches and jumps."""
    rng = random.Random(seed)  # noqa: S311
    found = {i: Block([i], top=str(i // 15), module=str(i // 4)) for i in range(count)}
    for i in range(1, count):
        near = [max(0, i - 1), *rng.sample(range(i), k=min(i, rng.choice([0, 0, 0, 1, 2])))]
        for source in set(near):
            found[source].after.add(i)
            found[i].before.add(source)
    return found


def reaches(after: dict[int, set[int]]) -> Edges:
    """All pairs from which the second is reached from the first."""
    found: Edges = set()
    for start in after:
        waiting = [start]
        while waiting:
            for end in after[waiting.pop()]:
                if (start, end) not in found:
                    found.add((start, end))
                    waiting.append(end)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_folding_keeps_every_way_and_closes_no_circle(seed: int) -> None:
    whole = {k: b.after for k, b in graph(seed).items()}
    folding = Folding(graph(seed))
    folding.modules()
    folding.until(10)
    blocks_after = {k: b.after for k, b in folding.blocks.items()}
    assert sorted(n for b in folding.blocks.values() for n in b.nodes) == sorted(whole)
    assert len(folding.blocks) < len(whole)
    owner = {n: k for k, b in folding.blocks.items() for n in b.nodes}
    between = {(owner[a], owner[b]) for a, ends in whole.items() for b in ends} - {
        (k, k) for k in folding.blocks
    }
    assert between == {(k, e) for k, ends in blocks_after.items() for e in ends}
    assert not [pair for pair in reaches(blocks_after) if pair[0] == pair[1]]


@pytest.mark.parametrize("seed", range(12))
def test_nothing_touches_and_every_arrow_goes_down(seed: int) -> None:
    given = graph(seed, 40)
    after = [sorted(given[i].after) for i in range(40)]
    found = place(after, 220, 20, 14)
    for (start, end), way in found.ways.items():
        assert found.layer[start] < found.layer[end]
        assert len(way) == found.layer[end] - found.layer[start] + 1
    for layer in set(found.layer):
        boxes = sorted(found.across[i] for i in range(40) if found.layer[i] == layer)
        lanes = [
            w[layer - found.layer[s]]
            for (s, e), w in found.ways.items()
            if found.layer[s] < layer < found.layer[e]
        ]
        for one, two in itertools.pairwise(boxes):
            assert two - one >= 240 - 1e-6
        for box, lane in itertools.product(boxes, lanes):
            assert abs(box - lane) >= 110 + 7, "an arrow passes through a block"
        assert all(110 - 1e-6 <= b <= found.width - 110 + 1e-6 for b in boxes)


def test_a_plain_onnx_file(tmp_path: Path) -> None:
    found = blocks.of_model(made.tiny_onnx(), {})
    assert found["nodes"] == 3
    assert [b["title"] for b in found["blocks"]] == ["x", "", "", "", "y"]
    assert [b["after"] for b in found["blocks"]] == [[1], [2], [3], [4], []]
    assert found["blocks"][1]["shape"] == "batch x 16 x 8 x 8"
    assert drawing.svg(found).count("<rect") == 5


def test_an_input_that_is_an_output_and_a_constant_output(tmp_path: Path) -> None:
    """Odd, but valid: a value passed through, and one that depends on no input."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constant = helper.make_node("Constant", [], ["c"], value_floats=[1.0])
    nodes = [constant, helper.make_node("Neg", ["c"], ["y"])]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "odd", [x], [x, y])), path)
    found = blocks.of_model(path, {})
    assert found["nodes"] == 0
    assert [b["title"] for b in found["blocks"]] == ["x", "x", "y"]
    assert drawing.svg(found).count("<rect") == 3


def test_a_graph_that_cannot_be_read_is_not_drawn(tmp_path: Path) -> None:
    """130 branches that meet in no common place."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    nodes = [helper.make_node("Neg", ["x"], [f"y{i}"]) for i in range(130)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [2]) for i in range(130)]
    path = tmp_path / "wide.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "wide", [x], outputs)), path)
    assert "more than the 120 that can be read" in blocks.of_model(path, {})["none"]
