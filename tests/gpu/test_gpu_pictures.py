"""Decoding, letterboxing and suppression on the GPU against the CPU's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from handlers import images
from handlers.gpu import pictures
from handlers.gpu.boxes import Decoder
from handlers.images import Item
from handlers.letterbox import Letterbox
from tests.support import detector_maps as made
from tests.support.built import PICTURES

pytestmark = pytest.mark.gpu

SIDE = 320

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""JPEG's brightness of red, green and blue."""


def jpeg(height: int, width: int) -> bytes:
    """A shipped picture, scaled."""
    with Image.open(sorted(PICTURES.glob("*.jpg"))[0]) as picture:
        out = io.BytesIO()
        picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(
            out, "JPEG", quality=95
        )
    return out.getvalue()


def on_the_cpu(data: bytes) -> tuple[NDArray[np.uint8], Letterbox]:
    picture = images.decode_to_fit(data, (SIDE, SIDE))
    return images.letterbox(picture.pixels, SIDE, SIDE, size=(picture.height, picture.width))


def on_the_gpu(*files: bytes) -> tuple[NDArray[np.float32], list[Letterbox]]:
    device = torch.device("cuda", 0)
    heads = [images.peek(data) for data in files]
    assert all(head.plain_jpeg for head in heads)
    items = [Item(h.height, h.width, None, d) for h, d in zip(heads, files, strict=True)]
    target = torch.empty(len(files), 3, SIDE, SIDE, device=device)
    sizes = [(h.height, h.width) for h in heads]
    places = pictures.letterbox(pictures.decode(items, device), target, sizes)
    found: NDArray[np.float32] = (target * 255).cpu().permute(0, 2, 3, 1).numpy()
    return found, places


SIZES = [(320, 320), (720, 1280), (480, 640), (37, 91), (1001, 703), (2000, 3000), (100, 1000)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_same_picture_at_the_same_place(height: int, width: int) -> None:
    data = jpeg(height, width)
    want, where = on_the_cpu(data)
    found, (place,) = on_the_gpu(data)
    assert (place.left, place.top) == (where.left, where.top)
    assert place.scale_x == pytest.approx(where.scale_x)
    difference = np.abs(found[0] - want.astype(np.float32))
    # Where no pixels are averaged, colours at edges differ: libjpeg smooths the halved colour
    # planes when it enlarges them, nvJPEG repeats their values. Brightness is the same.
    assert np.abs((found[0] - want) @ LUMA).mean() < 1.5
    assert difference.mean() < (6 if max(height, width) <= SIDE else 2), difference.mean()
    grey = (want == images.PADDING).all(2)
    grey[where.top : SIDE - where.top, where.left : SIDE - where.left] = False
    assert not grey.any() or np.abs(difference[grey]).max() < 1


def test_a_batch_of_mixed_sizes_is_each_alone() -> None:
    files = [jpeg(h, w) for h, w in [*SIZES[1:4], SIZES[1]]]
    together, places = on_the_gpu(*files)
    for i, data in enumerate(files):
        alone, (place,) = on_the_gpu(data)
        assert places[i] == place
        assert np.abs(together[i] - alone[0]).max() < 1.5


@pytest.mark.parametrize("objectness", [-30, -3, 1])
@pytest.mark.parametrize("batch", [1, 4])
def test_the_boxes_are_the_cpus(objectness: float, batch: int) -> None:
    maps = made.maps(7, batch, 160, objectness)
    want = made.expected(maps)
    decoder = Decoder(made.HEAD, made.SETTINGS, torch.device("cuda", 0))
    raw = [m.permute(0, 1, 4, 2, 3).contiguous().cuda().permute(0, 1, 3, 4, 2) for m in maps]
    found = decoder.find(raw).cpu().numpy()
    for picture, boxes in enumerate(want):
        made.same(boxes, found[found[:, 0] == picture, 1:])
