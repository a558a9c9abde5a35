"""Heads: one formula for NumPy, torch and the network itself, and a family added by the tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from handlers import boxes, heads
from handlers.errors import ArchiveError
from handlers.gpu.boxes import Decoder
from handlers.heads.rows import Ranked, Scored
from repack.networks.yolov5 import YOLOv5 as Network
from repack.onnx import suppression
from repack.onnx.suppression import Columns, Graph
from tests.support import detector_maps as made

SETTING = made.HEAD.to_setting()


def maps(seed: int = 3) -> list[NDArray[np.float32]]:
    return [m.numpy() for m in made.maps(seed, 2, 96, -1)]


def test_boxes_are_those_of_the_authors_formula() -> None:
    np.testing.assert_allclose(made.HEAD.boxes(maps()), made.decode(maps()), rtol=1e-4, atol=1e-4)


def test_numpy_and_torch_give_the_same() -> None:
    for raw, grid in zip(maps(), made.HEAD.grids(made.HEAD.sides(96, 96)), strict=True):
        ours = made.HEAD.decode(raw, grid)
        theirs = made.HEAD.decode(torch.from_numpy(raw), torch.from_numpy(grid))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other.numpy(), rtol=1e-5, atol=1e-5)


def test_the_network_decodes_by_the_same_formula_to_the_last_bit() -> None:
    torch.manual_seed(3)
    network = Network("yolov5n", 5).eval()
    x = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        raw, expected = network.raw(x), cast(torch.Tensor, network(x))
    ends = network.head
    assert [tuple(m.shape[2:4]) for m in raw] == ends.sides(96, 64)
    grids = map(torch.from_numpy, ends.grids(ends.sides(96, 64)))
    found = [torch.cat(ends.decode(m, g), -1) for m, g in zip(raw, grids, strict=True)]
    assert torch.equal(torch.cat([f.flatten(1, 3) for f in found], 1), expected)
    numpy = ends.boxes([m.numpy() for m in raw])
    np.testing.assert_allclose(numpy, expected.numpy(), rtol=1e-5, atol=1e-4)


def test_a_head_is_read_as_it_was_written() -> None:
    assert heads.of({heads.SETTING: SETTING}) == made.HEAD
    assert heads.of({}) is None


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({**SETTING, "name": "yolo99"}, "the archive's head is {'anchors'"),
        ("yolov5", "the archive's head is 'yolov5'; known: yolov5, scored, ranked"),
        ({k: v for k, v in SETTING.items() if k != "classes"}, "head: 'classes' is missing"),
        ({**SETTING, "colour": 1}, "head: 'colour' is not known"),
        ({**SETTING, "strides": [8, "16", 32]}, "head: strides: '16'"),
    ],
)
def test_a_head_that_is_none_is_refused_in_one_line(told: Any, said: str) -> None:
    if isinstance(told, dict):
        told = dict(sorted(told.items()))
    with pytest.raises(ArchiveError) as refused:
        heads.of({heads.SETTING: told})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_detector_without_a_head_is_refused() -> None:
    with pytest.raises(ArchiveError, match="names no head: repack it"):
        heads.required({"confidence": 0.25})


@dataclass(frozen=True, kw_only=True)
class Free(heads.Head):
    """Another family: no anchors, no objectness, one map; a box reaches from its cell."""

    name = "free"
    stride: int

    @property
    def raw(self) -> tuple[str, ...]:
        return ("map",)

    @property
    def values(self) -> int:
        return 4 + self.classes

    def sides(self, height: int, width: int) -> list[tuple[int, int]]:
        return [(height // self.stride, width // self.stride)]

    def grids(self, sides: Any) -> list[heads.Grid]:
        ((height, width),) = sides
        grid = np.empty((1, height, width, 2), np.float32)
        grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
        return [grid * self.stride]

    def decode(self, raw: Any, grid: Any) -> tuple[Any, Any, Any]:
        rest = raw[..., 4:]
        y = 1 / (1 + np.exp(-rest)) if isinstance(rest, np.ndarray) else rest.sigmoid()
        return grid + raw[..., 0:2], raw[..., 2:4] * 8, y

    def first(self, rows: Any) -> Any:
        scores = rows[..., 4:]
        return scores.max(-1) if isinstance(scores, np.ndarray) else scores.amax(-1)

    def threshold(self, confidence: float) -> float:
        return math.log(confidence / (1 - confidence))

    def confidence(self, rest: Any) -> Any:
        return rest


class FreeTail(suppression.Tail):
    def first(self, g: Graph, name: str) -> str:
        end = g.constant([np.iinfo(np.int64).max])
        scores = g.add("Slice", name, g.constant([4]), end, g.constant([4]))
        return g.add("ReduceMax", scores, g.constant([4]), keepdims=0)

    def decode(self, g: Graph, raw: Columns, grid: Columns) -> tuple[str, str, str]:
        centre = g.add("Add", grid(0, 2), raw(0, 2))
        size = g.add("Mul", raw(2, 4), g.number(8))
        return centre, size, g.add("Sigmoid", raw(4, raw.width))


FREE = Free(classes=3, stride=8)
SETTINGS = {"confidence": 0.6, "iou": 0.45, "max_detections": 50}


def free_maps() -> NDArray[np.float32]:
    rng = np.random.default_rng(8)
    raw = rng.normal(0, 1, (2, 1, 12, 10, 7)).astype(np.float32)
    raw[..., 2:4] = rng.uniform(1, 5, raw[..., 2:4].shape)
    return raw


def free_boxes(picture: int) -> boxes.Boxes:
    s = SETTINGS
    decoded = FREE.boxes([free_maps()])[picture]
    return boxes.nms(decoded, FREE, s["confidence"], s["iou"], int(s["max_detections"]))


def test_another_family_comes_in_by_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.HEADS, "free", Free)
    assert heads.required({heads.SETTING: FREE.to_setting()}) == FREE


class OnTheCpu(Decoder):
    """Suppression by the handlers' own, where torchvision may not be installed."""

    def suppressed(self, rows: torch.Tensor) -> torch.Tensor:
        found = []
        for picture in (0, 1):
            mine = rows[rows[:, 0] == picture, 1:].numpy()
            kept = torch.from_numpy(boxes.suppressed(mine, self.iou, self.limit))
            found.append(torch.cat((torch.full((len(kept), 1), float(picture)), kept), 1))
        return torch.cat(found)


def test_its_boxes_on_a_gpu_are_its_boxes_elsewhere() -> None:
    used = OnTheCpu(FREE, SETTINGS, torch.device("cpu"))
    given = [torch.from_numpy(free_maps())]
    for found in (used.find(given), used.chosen(used.candidates(given))):
        assert found is not None
        for picture in (0, 1):
            want = free_boxes(picture)
            assert len(want) > 5
            made.same(want, found[found[:, 0] == picture, 1:].numpy())


def test_its_tail_gives_its_boxes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suppression.TAILS, "free", FreeTail)
    shape: list[str | int | None] = ["batch", 1, 12, 10, 7]
    given, raw = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "map"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["map"])], "raw", [given], [raw])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "plain.onnx")
    s = SETTINGS
    limits = s["confidence"], s["iou"], int(s["max_detections"])
    suppression.append(tmp_path / "plain.onnx", tmp_path / "whole.onnx", FREE, *limits)
    session = ort.InferenceSession(tmp_path / "whole.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["detections"], {"x": free_maps()})
    for picture in (0, 1):
        mine = found[found[:, 0] == picture, 1:]
        made.same(free_boxes(picture), mine[np.argsort(-mine[:, 4])][: limits[2]])


def scored_rows() -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    rows = np.empty((2, 80, 8), np.float32)
    rows[..., :2] = rng.uniform(0, 96, rows[..., :2].shape)
    rows[..., 2:4] = rng.uniform(4, 40, rows[..., 2:4].shape)
    rows[..., 4:7] = rng.uniform(0, 1, rows[..., 4:7].shape) ** 2
    rows[..., 7] = np.arange(80)
    return rows


def ranked_rows() -> NDArray[np.float32]:
    rows = scored_rows()[..., :6]
    rows[..., 2:4] += rows[..., :2]
    rows[..., 5] = np.arange(80) % 3
    return rows


ROWS = ((Scored(classes=3, extras=1), scored_rows()), (Ranked(classes=3), ranked_rows()))


@pytest.mark.parametrize(("head", "rows"), ROWS)
def test_rows_are_the_same_boxes_on_a_gpu(head: heads.Head, rows: NDArray[np.float32]) -> None:
    kind = Decoder if head.ranked else OnTheCpu
    decoder = kind(head, SETTINGS, torch.device("cpu"))
    found = decoder.chosen(decoder.candidates([torch.from_numpy(rows)]))
    every = decoder.find([torch.from_numpy(rows)])
    assert found is not None
    np.testing.assert_allclose(found.numpy(), every.numpy(), atol=1e-4)
    s = SETTINGS
    for i, mine in enumerate(rows):
        want = boxes.nms(mine, head, s["confidence"], s["iou"], int(s["max_detections"]))
        have = found[found[:, 0] == i][:, 1:]
        assert len(want) > 5
        np.testing.assert_allclose(have.numpy(), want[:, :6], atol=1e-3)


def test_extras_go_with_their_box() -> None:
    (head, rows), s = ROWS[0], SETTINGS
    found = boxes.nms(rows[0], head, s["confidence"], s["iou"], int(s["max_detections"]))
    assert found.shape[1] == 7
    for row in found:
        assert row[4] == rows[0, int(row[6]), 4:7].max()


def test_a_ranked_head_suppresses_nothing() -> None:
    (head, rows), s = ROWS[1], SETTINGS
    found = boxes.nms(np.repeat(rows[0], 2, axis=0), head, s["confidence"], 0.1, 1000)
    assert len(found) == 2 * int((rows[0, :, 4] > s["confidence"]).sum())
    assert (np.diff(found[:, 4]) <= 0).all()
