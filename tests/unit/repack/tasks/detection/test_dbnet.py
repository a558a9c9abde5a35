"""Detectors of text whose network answers a map."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from handlers import images
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError
from repack import pipeline
from repack.options import DetectorOptions, Options, SourceOptions
from tests.support import exported_detectors as made
from tests.support.loading import model

ASKED = DetectorOptions(mean=(0, 0, 0), std=(1, 1, 1))


class Dark(nn.Module):
    """A map of how dark each pixel is."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.paper = nn.Conv2d(3, channels, 1)
        for values, value in ((self.paper.weight, -20 / 3), (self.paper.bias, 5)):
            assert values is not None
            nn.init.constant_(values, value)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.paper(x)
        return found.sigmoid()


def test_a_map_of_text_is_served_as_rectangles(tmp_path: Path) -> None:
    path = made.onnx_file(tmp_path, "dbnet", network=Dark())
    options = Options(
        SourceOptions(path), "m", model_store=tmp_path, task="oriented", backend="onnxruntime",
        precision="f32", detector=ASKED,
    )  # fmt: skip
    with zipfile.ZipFile(pipeline.repack(options)) as packed:
        packed.extractall(tmp_path / "out")
    entry, context = Entry(), LocalContext(tmp_path / "out")
    entry.initialize(context)
    picture = np.full((64, 128, 3), 255, np.uint8)
    picture[20:40, 30:90] = 0
    buffer = images.encode_png(picture[..., 0])
    answer = json.loads(entry.handle([{"body": buffer}], context)[0])
    (found,) = answer["detections"]
    assert found["class"] == "text"
    x, y, width, height, angle = found["xywhr"]
    assert (x, y, angle) == pytest.approx((60, 30, 0), abs=1.5)
    assert width - 60 == pytest.approx(height - 20, abs=3)  # every side moves as far
    assert width > 75
    assert found["corners"][0] == pytest.approx([x - width / 2, y - height / 2], abs=0.02)


def test_the_layout_says_how_text_is_read(tmp_path: Path) -> None:
    path = made.onnx_file(tmp_path, "dbnet", network=Dark())
    given = model(path, task="oriented", detector=DetectorOptions())
    assert given.source.labels == ("text",)
    assert given.settings["confidence"] == 0.6
    assert any("assumed" in note for note in given.notes)
    own = model(path, task="oriented", detector=DetectorOptions(confidence=0.3))
    assert own.settings["confidence"] == 0.3


def test_a_map_of_several_classes_is_no_map_of_text(tmp_path: Path) -> None:
    path = made.onnx_file(tmp_path, "dbnet", network=Dark(2))
    with pytest.raises(KitError, match=r"dbnet \[N, 1, height, width\]"):
        model(path, task="oriented", detector=ASKED)
