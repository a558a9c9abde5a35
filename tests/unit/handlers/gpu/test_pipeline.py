"""The order of work of a detector's GPU pipeline, on the CPU: what waits for a GPU stands aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handlers.boxes import CANDIDATES, nms
from handlers.errors import Unprocessable
from handlers.gpu import pictures
from handlers.gpu.boxes import Decoder
from handlers.gpu.pipeline import Pipeline
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.parameters import Limits
from handlers.runtimes.device import Size
from handlers.stages import Stages
from tests.support import detector_maps as made
from tests.support.detector_maps import OnTheCpu

SIDE = 320
NAMES = ["raw_8", "raw_16", "raw_32"]


class Event:
    """A GPU's event, of a queue that is never behind."""

    def __init__(self, enable_timing: bool = False):
        pass

    def record(self) -> None: ...
    def synchronize(self) -> None: ...

    def elapsed_time(self, other: Event) -> float:
        return 1.0


class Network:
    """A runtime whose maps depend on the pictures: each one's first value names its maps.

    Batches of 1 and 4, buffers that every call overwrites, and graphs that only call.
    """

    batches = (1, 4)
    largest = 4
    device = torch.device("cpu")
    stream = SimpleNamespace(wait_event=lambda event: None, synchronize=lambda: None)
    head = made.HEAD
    options = SimpleNamespace(outputs=NAMES)

    def __init__(self, objectness: float):
        self.objectness = objectness
        self.ran: list[int] = []
        self._sizes: dict[int, Size] = {}

    def bucket(self, rows: int) -> int:
        return next(b for b in self.batches if b >= rows)

    def size(self, shapes: Mapping[str, tuple[int, ...]]) -> Size:
        (shape,) = shapes.values()
        if shape[0] not in self._sizes:
            outputs = dict(zip(NAMES, made.maps(0, shape[0], SIDE, -9), strict=True))
            size = Size({"images": torch.zeros(shape[0], 3, SIDE, SIDE)}, outputs)
            size.graph = lambda: None
            self._sizes[shape[0]] = size
        return self._sizes[shape[0]]

    def run(self, size: Size) -> None:
        self.ran.append(size.batch)
        for row in range(size.batch):
            seed = round(float(size.inputs["images"][row, 0, 0, 0]))
            for name, maps in zip(NAMES, self.maps(seed), strict=True):
                size.outputs[name][row] = maps[0]

    def maps(self, seed: int) -> list[Tensor]:
        return made.maps(seed, 1, SIDE, self.objectness)

    def view(self, outputs: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
        return {name: tensor[:rows] for name, tensor in outputs.items()}

    def captured(self, work: Callable[[], Any]) -> Callable[[], Any]:
        return work


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queues and events that are always done; pictures that are only their number."""

    @contextmanager
    def stream(of: Any) -> Iterator[None]:
        with nullcontext():
            yield

    def decode(items: Sequence[Item], device: torch.device) -> list[Tensor]:
        return [torch.tensor(float(item.data)) for item in items]

    def letterbox(
        given: Sequence[Tensor], target: Tensor, sizes: Sequence[tuple[int, int]], mode: str
    ) -> list[Letterbox]:
        for row, picture in zip(target, given, strict=True):
            row.fill_(picture)
        return [Letterbox(1.0, 1.0, round(float(picture)), 0) for picture in given]

    empty = torch.empty

    def unpinned(*size: Any, pin_memory: bool = False, **rest: Any) -> Tensor:
        return empty(*size, **rest)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch, "empty", unpinned)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, of: None)
    monkeypatch.setattr(pictures, "decode", decode)
    monkeypatch.setattr(pictures, "letterbox", letterbox)
    monkeypatch.setattr(Decoder, "kept", OnTheCpu.kept)


def pipeline(network: Network) -> Pipeline:
    spec = SimpleNamespace(name="images", shape=("batch", SIDE, SIDE, 3))
    passport: Any = SimpleNamespace(inputs=[spec], settings=made.SETTINGS)
    runtime: Any = network
    return Pipeline(runtime, passport, Stages())


def items(*numbers: int) -> list[Item]:
    return [Item(SIDE, SIDE, None, str(n).encode()) for n in numbers]


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_every_picture_gets_its_own_boxes(on_the_cpu: None, count: int) -> None:
    network = Network(-5)
    used = pipeline(network)
    for first in (10, 30):  # twice: buffers are used again
        network.ran.clear()
        found = used.boxes(items(*range(first, first + count)))
        assert len(found) == count
        for number, (boxes, place) in enumerate(found, first):
            (want,) = made.expected(network.maps(number))
            made.same(want, boxes)
            assert place == Letterbox(1.0, 1.0, number, 0)
        assert sum(network.ran) >= count
        assert len(network.ran) == -(-count // 4)


def test_a_crowd_is_looked_at_as_a_whole(on_the_cpu: None) -> None:
    network = Network(0)
    assert sum(int((m[..., 4] > 0).sum()) for m in network.maps(1)) > CANDIDATES
    found = pipeline(network).boxes(items(1, 2, 3, 4, 5))
    for number, (boxes, _) in enumerate(found, 1):
        (want,) = made.expected(network.maps(number))
        made.same(want, boxes)
    assert len(network.ran) == 4  # each of the two chunks twice


def test_an_overlap_of_ones_own_suppresses_the_candidates(on_the_cpu: None) -> None:
    network, asked = Network(-4), items(10, 11)
    asked[1] = asked[1]._replace(limits=Limits(0.25, 0.02, 300))
    (first, _), (second, _) = pipeline(network).boxes(asked)
    made.same(made.expected(network.maps(10))[0], first)
    whole = made.decode([m.numpy() for m in network.maps(11)])[0]
    want = nms(whole, made.HEAD, 0.25, 0.02, 300)
    assert len(want) < len(made.expected(network.maps(11))[0])
    made.same(want, second)
    with pytest.raises(Unprocessable, match="more than 512 candidates; expected none: so many"):
        pipeline(Network(0)).boxes(asked)


def test_without_a_graph_the_boxes_are_the_same(
    on_the_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Network, work: Callable[[], Any]) -> Any:
        raise RuntimeError("out of memory while capturing")

    monkeypatch.setattr(Network, "captured", refused)
    network = Network(-5)
    for number, (boxes, _) in enumerate(pipeline(network).boxes(items(10, 11, 12)), 10):
        (want,) = made.expected(network.maps(number))
        made.same(want, boxes)


def test_nothing_found_is_nothing(on_the_cpu: None) -> None:
    found = pipeline(Network(-40)).boxes(items(1, 2))
    assert [boxes.shape for boxes, _ in found] == [(0, 6), (0, 6)]
    assert found[0][0].dtype == np.float32
