"""Rows 1 to 5, 11 and 47: bodies that are no picture, half of one, or packed otherwise."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.bench import GOOD, Bench, together
from tests.support.bodies import form
from tests.support.pictures import claims, saved


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ("0 bytes came",)),
        (b"hello", ("5 bytes that are no picture", "expected JPEG, PNG")),
        (bytes(5000), ("5000 bytes that are no picture",)),
        (GOOD[100:], (f"{len(GOOD) - 100} bytes that are no picture",)),
    ],
)
def test_row_01_no_picture(served: Bench, body: bytes, words: tuple[str, ...]) -> None:
    served.ask(body).reason(400, *words)


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "PNG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_row_02_truncated_pictures(served: Bench, kind: str, share: float) -> None:
    data = saved("JPEG", progressive=True) if kind == "progressive" else saved(kind)
    reply = served.ask(data[: int(len(data) * share)])
    reply.reason(400, "truncated")
    assert served.ask(data).status == 200


@pytest.mark.parametrize("cut", [1, 4, 8, 12])
def test_row_02_a_png_without_its_end(served: Bench, cut: int) -> None:
    """Row 2: all pixels may be there, and Pillow gives them without a word."""
    served.ask(saved("PNG")[:-cut]).reason(400, "the PNG is damaged or truncated", "IEND")


def test_row_03_a_tiny_file_that_claims_to_be_huge(served: Bench) -> None:
    (pid,) = served.pids("fd1")
    before = psutil.Process(pid).memory_info().rss
    body = claims(60_000, 60_000)
    assert len(body) < 100
    for reply in together([lambda: served.ask(body)] * 4):
        reply.reason(413, "60000x60000 = 3,600,000,000 pixels", "at most 50,000,000")
    assert psutil.Process(pid).memory_info().rss - before < 30 << 20


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (saved("TIFF"), "TIFF"),
        (saved("EPS", side=64), "PostScript"),
        (saved("GIF"), "GIF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "SVG"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"%PDF-1.7\n%", "PDF"),
    ],
)
def test_row_04_other_formats_named_jpg(served: Bench, body: bytes, named: str) -> None:
    headers = {"Content_Type": "image/jpeg", "Content_Disposition": 'filename="a.jpg"'}
    served.ask(body, **headers).reason(415, named, "expected JPEG, PNG, WEBP, BMP")


TEXT = base64.b64encode(GOOD)
AS_JSON = json.dumps({"data": TEXT.decode()}).encode()
SAME = {
    "json": (AS_JSON, "application/json"),
    "json with charset": (AS_JSON, "application/json; charset=utf-8"),
    "json under another field": (json.dumps({"b64": TEXT.decode()}).encode(), "application/json"),
    "json without its type": (AS_JSON, "application/octet-stream"),
    "text": (TEXT, "text/plain"),
    "text in lines": (base64.encodebytes(GOOD), "text/plain"),
    "data uri": (b"data:image/jpeg;base64," + TEXT, "text/plain"),
    "raw bytes called text": (GOOD, "text/plain"),
    "raw bytes called json": (GOOD, "application/json"),
    "image/jpeg": (GOOD, "image/jpeg"),
    "image/png that is a jpeg": (GOOD, "image/png"),
    "one field": form(("data", "a.jpg", GOOD)),
    "a field of any name": form(("upload", "a.jpg", GOOD)),
}


@pytest.mark.parametrize("way", sorted(SAME))
def test_row_05_every_way_gives_the_same_answer(served: Bench, way: str) -> None:
    body, kind = SAME[way]
    expected = served.ask(GOOD).json()
    reply = served.ask(body, Content_Type=kind)
    assert (reply.status, reply.media_type) == (200, "application/json"), reply.body
    assert reply.json() == expected
    assert expected["detections"]


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b"hello, world", "text/plain", 415, "text that is not base64"),
        (b"[1, 2, 3]", "application/json", 415, "list came"),
        (b'{"data": 5}', "application/json", 415, "int came"),
        (b'{"data": "aGVsbG8="}', "application/json", 400, "5 bytes that are no picture"),
        (b'{"data": ', "application/json", 400, "begins like JSON but is not"),
        (b'{"a":' * 100_000, "application/json", 400, "begins like JSON but is not"),
        (*form(("a", "", b"1"), ("b", "", b"2")), 400, "fields or parameters a, b came: expected"),
        (*form(("note", "", b"x"), ("image", "", GOOD)), 400, "image, note came: expected one"),
    ],
)
def test_row_05_what_cannot_be_read_is_refused(
    served: Bench, body: bytes, kind: str, status: int, words: str
) -> None:
    served.ask(body, Content_Type=kind).reason(status, words)


TWO = form(("a", "a.jpg", GOOD), ("b", "b.jpg", GOOD))
WITH = form(("data", "a.jpg", GOOD), ("threshold", "", b"0.9"))


@pytest.mark.parametrize(
    ("body", "kind", "came"),
    [
        (*TWO, "a, b"),
        (*WITH, "data, threshold"),
        (json.dumps({"data": TEXT.decode(), "threshold": 0.9}).encode(), "application/json",
         "data, threshold"),
    ],
    ids=["two pictures", "a parameter", "a field of JSON"],
)  # fmt: skip
def test_row_47_nothing_is_dropped_in_silence(
    served: Bench, body: bytes, kind: str, came: str
) -> None:
    """Row 47: two pictures, or a parameter that the handler does not know."""
    reply = served.ask(body, Content_Type=kind)
    reply.reason(400, f"fields or parameters {came} came: expected one, which is the input")


def test_row_47_a_query_string_says_what_is_answered(served: Bench) -> None:
    """Row 47: TorchServe's front end keeps it from the worker, so the guard makes a header of it;
    a setting that the handler does not know is refused by name."""
    whole = served.ask(GOOD).json()["detections"]
    least = whole[0]["confidence"] - 1e-4
    found = served.ask(GOOD, path=f"/predictions/{{}}?conf={least}").json()
    assert found["detections"] == whole[:1]
    assert found["parameters"]["conf"] == least
    reply = served.ask(GOOD, path="/predictions/{}?threshold=0.9")
    reply.reason(400, "parameters threshold came; expected conf, iou, classes, max_det")
    served.ask(GOOD, path="/predictions/{}?conf=0.1").reason(422, "0.25, which is packed")
    both = served.ask(GOOD, path="/predictions/{}?conf=0.5", X_Parameters="conf=0.6")
    both.reason(400, "the query string 'conf=0.5' came beside X-Parameters")


def test_row_05_bytes_called_a_web_form_are_refused(served: Bench) -> None:
    """What ``curl --data-binary @a.jpg`` sends: the guard finds too many fields in a picture, and
    TorchServe's front end does not decode the others."""
    reply = served.ask(GOOD, Content_Type="application/x-www-form-urlencoded")
    reply.reason(413, "a form of more than 64 fields came")


def batches(served: Bench) -> float:
    """How many batches the detector has answered, once the handler and the server have told."""
    time.sleep(0.3)  # the handler reports at most so often
    assert served.ask(GOOD).status == 200
    seen = [-1.0]
    while len(seen) < 3 or len(set(seen[-3:])) > 1:
        time.sleep(0.2)
        page = served.ask(b"", purpose="metrics", path="/metrics").body.decode()
        lines = [x for x in page.splitlines() if x.startswith("handler_batches{") and '"fd1"' in x]
        seen.append(sum(float(line.rpartition(" ")[2]) for line in lines))
    return seen[-1]


@pytest.mark.alone
def test_row_11_one_bad_item_in_a_batch_of_good_ones(served: Bench) -> None:
    expected = served.ask(GOOD).json()
    bodies = [GOOD, b"hello", GOOD, saved("TIFF")]
    before = batches(served)
    calls: list[Callable[[], Any]] = [lambda body=body: served.ask(body) for body in bodies]  # type: ignore[misc]
    replies = together(calls)
    assert batches(served) - before == 2, "the four were not one batch"
    assert [r.status for r in replies] == [200, 400, 200, 415]
    replies[1].reason(400, "5 bytes that are no picture")
    replies[3].reason(415, "TIFF came")
    assert replies[0].json() == replies[2].json() == expected
    assert np.array(expected["detections"][0]["box"]).shape == (4,)
