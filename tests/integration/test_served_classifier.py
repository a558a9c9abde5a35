"""A classifier behind a real server: labelled answers, each to the client that asked."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image, ImageOps

from tests.support import classifiers, made
from tests.support.bench import Bench, bench, together

PICTURES = sorted(made.PICTURES.glob("*.jpg"))
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def expected(model: Path, pictures: list[Path], side: int, batch: int = 1) -> list[Any]:
    """The ONNX file's own probabilities, by Pillow, NumPy and ONNX Runtime alone."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    resize = round(side * 256 / 224)
    found = []
    for path in pictures:
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        scale = resize / min(image.size)
        size = int(image.size[0] * scale), int(image.size[1] * scale)
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (round((n - side) / 2) for n in size)
        pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float64)
        planes = ((pixels / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)
        given = np.repeat(planes[None], batch, axis=0)
        logits = session.run(None, {"images": given})[0][0].astype(np.float64)
        powers = np.exp(logits - logits.max())
        found.append(powers / powers.sum())
    return found


def check(answer: dict[str, Any], wanted: Any, atol: float, label: str) -> None:
    classes = answer["classes"]
    for c in classes:
        assert c["class"] == label.format(c["class_id"])
        assert c["probability"] == pytest.approx(wanted[c["class_id"]], abs=atol)
    least = classes[-1]["probability"]
    others = np.delete(wanted, [c["class_id"] for c in classes])
    assert others.max(initial=0) <= least + atol


def as_png(path: Path) -> bytes:
    """The picture as a format that is always decoded whole."""
    out = io.BytesIO()
    ImageOps.exif_transpose(Image.open(path)).convert("RGB").save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def served() -> Iterator[Bench]:
    values = {"batch_size": 4, "max_batch_delay": 100, "queue": 100}
    picture = PICTURES[0].read_bytes()
    with bench({"kinds": classifiers.archive()}, ("kinds", picture), **values) as found:
        yield found


def test_served_answers_are_the_models_own(served: Bench) -> None:
    wanted = expected(classifiers.resnet_onnx(), PICTURES, classifiers.SIDE)
    assert len({int(w.argmax()) for w in wanted}) > 1, "all pictures alike: nothing is compared"
    for path, probabilities in zip(PICTURES, wanted, strict=True):
        reply = served.ask(as_png(path))
        assert (reply.status, reply.media_type) == (200, "application/json")
        answer = reply.json()
        assert answer["model"] == {"name": "kinds", "version": "1.0", "task": "classification"}
        assert answer["runtime"]["fallback"] is None
        assert len(answer["classes"]) == 3
        check(answer, probabilities, 0.02, "kind {}")


def test_every_way_a_picture_comes(served: Bench) -> None:
    data = PICTURES[1].read_bytes()
    raw = served.ask(data).json()
    body = json.dumps({"data": base64.b64encode(data).decode()}).encode()
    assert served.ask(body, Content_Type="application/json").json() == raw


def test_one_bad_picture_of_a_batch_does_not_touch_the_others(served: Bench) -> None:
    alone = {p.name: served.ask(p.read_bytes()).json() for p in PICTURES[:6]}
    bodies = [
        *(p.read_bytes() for p in PICTURES[:6]),
        b"no picture",
        PICTURES[0].read_bytes()[:900],
    ]
    with served.undisturbed():
        replies = together([lambda b=b: served.ask(b) for b in bodies])  # type: ignore[misc]
    assert [r.status for r in replies] == [200] * 6 + [400, 400]
    replies[6].reason(400, "no picture", "expected JPEG")
    for path, reply in zip(PICTURES, replies[:6], strict=False):
        found, own = reply.json()["classes"], alone[path.name]["classes"]
        assert [c["class"] for c in found] == [c["class"] for c in own]
        np.testing.assert_allclose(
            [c["probability"] for c in found], [c["probability"] for c in own], atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_resnet50_from_onnx_at_batch_64(tmp_path: Path) -> None:
    """The whole way of a published classifier: ONNX at a fixed batch, repacked, served."""
    model = tmp_path / "resnet50.onnx"
    make = made.ROOT / "examples" / "resnet50" / "make.py"
    subprocess.run([sys.executable, str(make), str(model), "--batch", "64"], check=True)
    flags = ("--weights", model, "--task", "classification", "--name", "resnet50")
    done = made.repack(*flags, "--model-store", tmp_path, "--samples", made.PICTURES)
    assert done.returncode == 0, done.stderr
    assert "fixed at batch 64; any batch gives the same answers" in done.stderr
    picture = PICTURES[0].read_bytes()
    archives = {"resnet50": tmp_path / "resnet50.mar"}
    values = {"batch_size": 8, "max_batch_delay": 50, "queue": 100}
    with bench(archives, ("resnet50", picture), **values) as served:
        bodies = [p.read_bytes() for p in PICTURES[:4]]
        replies = together([lambda b=b: served.ask(b) for b in bodies])  # type: ignore[misc]
    wanted = expected(model, PICTURES[:4], 224, batch=64)
    for reply, probabilities in zip(replies, wanted, strict=True):
        assert reply.status == 200, reply.body
        assert len(reply.json()["classes"]) == 5
        check(reply.json(), probabilities, 0.08, "{}")
