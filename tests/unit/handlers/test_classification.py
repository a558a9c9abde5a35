"""The classification handler: what it cuts out, what it answers, and whose answer is whose."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from handlers import crops, images
from handlers.artefact import Artefact
from handlers.classification import ClassificationHandler, probabilities
from handlers.context import LocalContext
from handlers.passport import Passport, TensorSpec
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8))
    fine = rng.integers(-20, 21, (height, width, 3))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), int)
    return np.clip(smooth + fine, 0, 255).astype(np.uint8)


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def whole_then_cut(pixels: NDArray[np.uint8], resize: int, crop: int) -> NDArray[np.uint8]:
    """torchvision's two steps, each in full, with Pillow."""
    image = Image.fromarray(pixels)
    width, height = image.size
    shorter = min(width, height)
    size = int(resize * width / shorter), int(resize * height / shorter)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    return np.asarray(image.crop((left, top, left + crop, top + crop)))


@pytest.mark.parametrize(
    "size", [(300, 400), (401, 257), (256, 256), (50, 80), (30, 1000), (224, 225)]
)
def test_the_crop_is_what_scaling_and_cutting_give(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    found = crops.read(encoded(pixels), 256, 224)
    assert (found.height, found.width) == size
    wanted = whole_then_cut(pixels, 256, 224)
    assert np.abs(found.pixels.astype(int) - wanted).max() <= 1


def test_a_large_jpeg_is_decoded_no_smaller_than_the_shorter_side_needs() -> None:
    pixels = picture(900, 2000)
    data = encoded(pixels, "JPEG", quality=95)
    held = images.decode_to_fit(data, (256, 256), cover=True)
    assert (held.height, held.width) == (900, 2000)
    assert held.pixels.shape[:2] == (450, 1000)  # letterboxing would have taken 225 rows
    found = crops.read(data, 200, 180).pixels.astype(int)  # decoded at 1/2: 450 >= 2 * 200
    wanted = whole_then_cut(np.asarray(images.decode(data)), 200, 180)
    assert 0 < np.abs(found - wanted).mean() < 0.8
    full = crops.read(data, 256, 224).pixels.astype(int)  # 450 < 2 * 256: decoded in full
    assert np.abs(full - whole_then_cut(images.decode(data), 256, 224)).max() <= 1


def test_orientation_is_applied_before_the_centre_is_cut() -> None:
    pixels = picture(300, 500)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned a quarter clockwise
    found = crops.read(encoded(pixels, exif=exif), 256, 224)
    assert (found.height, found.width) == (500, 300)
    wanted = whole_then_cut(np.ascontiguousarray(np.rot90(pixels, -1)), 256, 224)
    assert np.abs(found.pixels.astype(int) - wanted).max() <= 1


def test_probabilities() -> None:
    logits = np.array([[0, np.log(3)], [1000, 0]], np.float32)
    wanted = np.array([[0.25, 0.75], [1, 0]])
    np.testing.assert_allclose(probabilities(logits, "logits"), wanted, atol=1e-7)
    given = np.array([[0.2, 0.8]], np.float32)
    np.testing.assert_array_equal(probabilities(given, "probabilities"), given.astype(float))


class Colours(Runtime):
    """Mean red, green and blue of each picture as logits; the same buffer at every call."""

    name = "colours"

    def activate(self) -> None:
        self.calls: list[int] = []

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        self.calls.append(len(pixels))
        self.buffer = getattr(self, "buffer", np.zeros((len(pixels), 3), np.float32))
        if len(self.buffer) != len(pixels):
            self.buffer = np.zeros((len(pixels), 3), np.float32)
        self.buffer[:] = pixels.mean((1, 2), dtype=np.float64) / 25
        return {"logits": self.buffer}


def handler(batch: int | str = "batch", top_k: int = 2, scores: str = "logits") -> Any:
    spec = TensorSpec("pixels", "uint8", (batch, 16, 16, 3), (0, 255), "NHWC")
    out = TensorSpec("logits", "float32", (batch, 3))
    artefact = Artefact("colours", (), "f32", {}, "tensors")
    passport = Passport(
        name="colours",
        version="1.0",
        task="classification",
        handler="",
        source={},
        inputs=(spec,),
        outputs=(out,),
        labels=("red", "green", "blue"),
        settings={"resize": 18, "crop": 16, "scores": scores, "top_k": top_k},
        artefacts={"accelerated": artefact},
        gate={},
        versions={},
    )
    runtime = Colours(Path(), artefact, (spec,))
    runtime.activate()
    return ClassificationHandler(passport, Loaded(runtime, artefact))


def plain(colour: int) -> bytes:
    pixels = np.full((20, 30, 3), 10, np.uint8)
    pixels[..., colour] = 200
    return encoded(pixels)


def ask(made: Any, bodies: list[bytes]) -> list[dict[str, Any]]:
    context = LocalContext(made)
    answers = made.handle([{"body": body} for body in bodies], context)
    return [json.loads(a) | {"status": s} for a, s in zip(answers, context.statuses, strict=True)]


@pytest.mark.parametrize("count", [1, 3])
def test_a_request_says_how_many_classes(count: int) -> None:
    context = LocalContext(Path(), headers={"x-parameters": f"top_k={count}"})
    (answer,) = handler().handle([{"body": plain(1)}], context)
    told = json.loads(answer)
    assert (len(told["classes"]), told["parameters"]) == (count, {"top_k": count})
    context = LocalContext(Path(), headers={"x-parameters": "top_k=4"})
    (answer,) = handler().handle([{"body": plain(1)}], context)
    assert context.statuses == [422]
    assert "expected a whole number from 1 to 3, all classes" in json.loads(answer)["message"]


def test_the_most_probable_classes_come_first() -> None:
    (answer,) = ask(handler(), [plain(1)])
    assert answer["status"] == 200
    assert answer["image"] == {"width": 30, "height": 20}
    first, second = answer["classes"]
    assert (first["class"], first["class_id"]) == ("green", 1)
    assert second["class"] == "red"  # as probable as blue: the lower number first
    expected = np.exp([0.4, 8.0, 0.4])
    assert first["probability"] == pytest.approx(expected[1] / expected.sum(), abs=1e-6)


@pytest.mark.parametrize("batch", ["batch", 1, 2, 4, 8])
def test_whatever_the_models_batch_each_gets_its_own_answer(batch: int | str) -> None:
    made = handler(batch)
    bodies = [plain(i % 3) for i in (2, 0, 1, 1, 2)]
    bodies.insert(2, b"no picture")
    answers = ask(made, bodies)
    assert [a["status"] for a in answers] == [200, 200, 400, 200, 200, 200]
    names = [a["classes"][0]["class"] for a in answers if a["status"] == 200]
    assert names == ["blue", "red", "green", "green", "blue"]
    sizes = {"batch": [5], 1: [1] * 5, 2: [2, 2, 2], 4: [4, 4], 8: [8]}
    assert made.runtime.calls == sizes[batch]


def test_a_model_that_answers_nan_is_said_to() -> None:
    made = handler()
    usual = made.runtime.infer

    def broken(inputs: dict[str, NDArray[Any]], every: bool = False) -> dict[str, NDArray[Any]]:
        values = dict(usual(inputs, every))
        values["logits"] = values["logits"].copy()
        values["logits"][0, 1] = np.nan
        return values

    made.runtime.infer = broken
    bad, good = ask(made, [plain(0), plain(0)])
    assert (bad["status"], good["status"]) == (422, 200)
    assert "NaN or infinity" in bad["message"]
