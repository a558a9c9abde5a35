"""The shipped detector, repacked by the command line on a GPU, and what may befall its archive."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import passport as passports
from handlers.errors import ArchiveError
from handlers.passport import Passport
from repack import archive
from tests.support.built import answered
from tests.support.gpu_detector import SAMPLE, Served, save

pytestmark = pytest.mark.gpu


@pytest.fixture
def folder(packed: Path, tmp_path: Path) -> Path:
    """The archive, unpacked, for one test to harm."""
    archive.unpack(packed, tmp_path / "archive")
    return tmp_path / "archive"


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked, not to be changed."""
    whole = tmp_path_factory.mktemp("whole") / "archive"
    archive.unpack(packed, whole)
    return whole


@pytest.fixture(scope="module")
def served(unpacked: Path) -> Iterator[tuple[Served, Served]]:
    """On the GPU, and by the portable module."""
    yield Served(unpacked), Served(unpacked, "portable")


def test_the_archive_says_what_it_holds(packed: Path, served: tuple[Served, Served]) -> None:
    passport = archive.verify(packed)
    assert passport.artefacts["accelerated"].runtime == "tensorrt"
    assert passport.artefacts["accelerated"].options.via in ("torch2trt", "onnx")
    assert passport.gate["accelerated"]["passed"]
    report = json.loads(packed.with_suffix(".report.json").read_text())
    assert report["chosen"]["backend"] == "tensorrt"
    (status,), (answer,) = served[0].ask(SAMPLE.read_bytes())
    assert status == 200
    assert answer["runtime"] == {"name": "tensorrt", "precision": "f16", "fallback": None}


def kinds() -> dict[str, bytes]:
    """The same picture in every kind of JPEG that a client may send."""
    data = SAMPLE.read_bytes()
    with Image.open(SAMPLE) as opened:
        picture = opened.convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    found = {
        "plain": data,
        "progressive": save(picture, progressive=True),
        "no subsampling": save(picture, subsampling=0),
        "cmyk": save(picture.convert("CMYK")),
        "grey": save(picture.convert("L")),
        "turned": save(picture.rotate(90, expand=True), exif=turned),
        "odd size": save(picture.resize((333, 251))),
        "large": save(picture.resize((2000, 1500))),
        "no end": data[:-2],
        "truncated": data[: len(data) // 2],
        "empty": b"",
    }
    png = io.BytesIO()
    picture.save(png, "PNG")
    return {**found, "png": png.getvalue()}


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (areas - shared)


def same_boxes(want: dict[str, Any], have: dict[str, Any]) -> None:
    """Every clear box of one answer is in the other."""
    assert want["image"] == have["image"]
    for first, second in ((want, have), (have, want)):
        for box in first["detections"]:
            near = [
                other
                for other in second["detections"]
                if other["class"] == box["class"] and overlap(box["box"], other["box"]) > 0.85
            ]
            assert near or box["confidence"] < 0.4, (box, second["detections"])


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_kind_of_jpeg_is_answered_as_on_the_cpu(
    served: tuple[Served, Served], kind: str
) -> None:
    data = kinds()[kind]
    gpu, cpu = (which.ask(data) for which in served)
    assert gpu[0] == cpu[0], (gpu[1], cpu[1])
    if cpu[0] == [200]:
        same_boxes(cpu[1][0], gpu[1][0])
        assert kind != "plain" or gpu[1][0]["detections"]
    else:
        assert gpu[1][0]["message"] == cpu[1][0]["message"]


def test_a_bad_picture_in_a_batch_harms_no_other(served: tuple[Served, Served]) -> None:
    made = kinds()
    files = [made[k] for k in ("plain", "truncated", "progressive", "cmyk", "large", "png")]
    statuses, answers = served[0].ask(*files)
    assert statuses == [200, 400, 200, 200, 200, 200]
    for data, status, answer in zip(files, statuses, answers, strict=True):
        if status == 200:
            (_, (alone,)) = served[0].ask(data)
            same_boxes(alone, answer)


def test_out_of_memory_is_507_and_the_next_request_is_answered(
    served: tuple[Served, Served],
) -> None:
    """Row 22: a PNG's 36 MB must all go to the device; a JPEG could be made smaller on the CPU."""
    gpu, out = served[0], io.BytesIO()
    with Image.open(SAMPLE) as opened:
        opened.convert("RGB").resize((4000, 3000)).save(out, "PNG", compress_level=1)
    large = out.getvalue()
    held = []
    torch.cuda.empty_cache()
    size = torch.cuda.mem_get_info()[0]
    while size > 1 << 20:
        try:
            held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
    try:
        statuses, answers = gpu.ask(large, large)
        assert statuses == [507, 507], answers
        assert "out of memory" in answers[0]["message"]
        assert "\n" not in answers[0]["message"]
    finally:
        held.clear()
        torch.cuda.empty_cache()
    assert gpu.ask(SAMPLE.read_bytes())[0] == [200]
    assert gpu.ask(large)[0] == [200]


def change(folder: Path, name: str, change_bytes: Any) -> None:
    """Changes a file and its hash in the passport, as a careful forger would."""
    path = folder / name
    path.write_bytes(change_bytes(path.read_bytes()))
    passport = Passport.read(folder)
    hashes = {**passport.files, name: passports.sha256(path)}
    (folder / passports.FILE).write_text(replace(passport, files=hashes).to_json())


def built_with(folder: Path, **values: str) -> None:
    """Changes what the passport says that the engines were built for."""
    passport = Passport.read(folder)
    engine = passport.artefacts["accelerated"]
    options = replace(engine.options, built={**engine.options.built, **values})
    artefacts = {**passport.artefacts, "accelerated": replace(engine, options=options)}
    (folder / passports.FILE).write_text(replace(passport, artefacts=artefacts).to_json())


@pytest.mark.parametrize(("what", "value"), [("tensorrt", "9.9.9"), ("gpu", "NVIDIA Imaginary 1")])
def test_an_engine_of_elsewhere_is_left_and_the_portable_module_serves(
    folder: Path, what: str, value: str
) -> None:
    """Row 19, on a GPU."""
    built_with(folder, **{what: value})
    here = Served(folder)
    (status,), (answer,) = here.ask(SAMPLE.read_bytes())
    assert status == 200
    fallback = answer["runtime"]["fallback"]
    assert answer["runtime"]["name"] == "torchscript"
    assert f"the engine was built for {what} {value} (here " in fallback
    assert "the portable torchscript module serves instead" in fallback
    assert any(k[0] == "handler_fallback" and v == 1 for k, v in metrics(here).items())


def metrics(here: Served) -> dict[tuple[str, str], float]:
    return here.context.metrics.totals


def test_another_versions_header_is_refused_before_it_is_read(folder: Path) -> None:
    """Row 19, on a GPU."""
    import tensorrt

    if not str(tensorrt.__version__).startswith("8."):
        pytest.skip("only 8's header is known")
    for name in Passport.read(folder).artefacts["accelerated"].files:
        change(folder, name, lambda data: data[:24] + bytes([8, 5, 3, 1]) + data[28:])
    (_, (answer,)) = Served(folder).ask(SAMPLE.read_bytes())
    assert "written by TensorRT 8.5.3.1, here is 8." in answer["runtime"]["fallback"]


def test_a_damaged_engine_with_a_right_checksum_falls_back(folder: Path) -> None:
    for name in Passport.read(folder).artefacts["accelerated"].files:
        change(folder, name, lambda data: data[: len(data) // 2])
    (status,), (answer,) = Served(folder).ask(SAMPLE.read_bytes())
    assert status == 200
    assert "refuses it" in answer["runtime"]["fallback"]


def test_one_flipped_byte_is_refused_by_checksum(folder: Path) -> None:
    """Row 20, on a GPU."""
    path = folder / Passport.read(folder).artefacts["accelerated"].files[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match="changed since it was packed, so it is not loaded"):
        Served(folder)


def test_without_tensorrt_the_log_names_it_and_how_to_get_it(unpacked: Path) -> None:
    """Row 21, on a GPU."""
    report, log = answered(unpacked, SAMPLE, "tensorrt")
    assert report["status"] == 200
    assert report["runtime"]["name"] == "torchscript"
    assert "tensorrt cannot be loaded" in report["runtime"]["fallback"]
    (line,) = [found for found in log.splitlines() if "FALLBACK" in found]
    assert "pip install tensorrt" in line


def test_without_a_gpu_the_portable_module_serves_and_says_so(unpacked: Path) -> None:
    report, log = answered(unpacked, SAMPLE, CUDA_VISIBLE_DEVICES="")
    assert report["status"] == 200
    assert report["runtime"]["name"] == "torchscript"
    assert "needs an NVIDIA GPU" in report["runtime"]["fallback"]
    assert "FALLBACK" in log


def test_an_archive_without_its_portable_module_fails_in_words(folder: Path) -> None:
    built_with(folder, tensorrt="9.9.9")
    passport = Passport.read(folder)
    alone = {"accelerated": passport.artefacts["accelerated"]}
    (folder / passports.FILE).write_text(replace(passport, artefacts=alone).to_json())
    report, log = answered(folder, SAMPLE)
    assert report["status"] == 500
    assert "built for tensorrt 9.9.9" in report["error"]
    assert "REFUSED" in log


def test_answers_are_the_same_again_and_again(served: tuple[Served, Served]) -> None:
    data = SAMPLE.read_bytes()
    first = served[0].ask(data)[1][0]["detections"]
    for _ in range(5):
        again = served[0].ask(data)[1][0]["detections"]
        np.testing.assert_allclose([d["box"] for d in again], [d["box"] for d in first], atol=0.02)
