"""Detectors on the CPU: whatever the model ends in, the same boxes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray
from PIL import Image

from handlers.artefact import Artefact, Options
from handlers.context import LocalContext
from handlers.detection import DetectionHandler
from handlers.errors import ArchiveError
from handlers.passport import Passport, TensorSpec
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime
from tests.support import detector_maps as made

SIDE = 96
SPEC = TensorSpec("images", "uint8", ("batch", SIDE, SIDE, 3), (0, 255), "NHWC")
PASSPORT = Passport(
    name="d", version="1.0", task="detection", handler="", source={}, inputs=(SPEC,), outputs=(),
    labels=("a", "b", "c", "d"), settings=made.SETTINGS, artefacts={}, gate={}, versions={},
)  # fmt: skip


class Maps(Runtime):
    """Gives the same maps for every picture, or what they decode to."""

    name = "maps"

    def activate(self) -> None: ...

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        maps = [m.numpy() for m in made.maps(7, len(inputs["images"]), SIDE, -3)]
        if self.artefact.output == "boxes":
            return {"boxes": made.decode(maps)}
        return dict(zip(made.HEAD.raw, maps, strict=True))


def handler(output: str, passport: Passport = PASSPORT) -> DetectionHandler:
    artefact = Artefact("maps", (), "f32", {}, output, Options())
    return DetectionHandler(passport, Loaded(Maps(Path(), artefact, (SPEC,)), artefact))


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (90, 120, 30)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("output", ["boxes", "tensors"])
def test_boxes_and_raw_maps_give_the_same_answer(output: str) -> None:
    used = handler(output)
    items = [used.decode(picture()), used.decode(picture())]
    wanted = made.expected(made.maps(7, 2, SIDE, -3))
    for found, want in zip(used.infer(items), wanted, strict=True):
        assert len(want) > 3
        want[:, :4] = want[:, :4].clip(0, SIDE)
        made.same(want, found)


def test_a_batch_is_decoded_item_by_item() -> None:
    context = LocalContext(Path())
    rows = [{"body": picture()}, {"body": b"no picture"}, {"data": picture()}]
    answers = handler("boxes").handle(rows, context)
    assert context.statuses == [200, 400, 200]
    assert b"no picture" in answers[1]


def test_a_detector_without_a_head_is_refused() -> None:
    bare = Passport(**{**vars(PASSPORT), "settings": {"confidence": 0.25}})
    with pytest.raises(ArchiveError, match="names no head: repack it"):
        handler("boxes", bare)
