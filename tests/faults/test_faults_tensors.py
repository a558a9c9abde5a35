"""Rows 7 and 40: arrays of the wrong rank, size or type, or that unpack to gigabytes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.bench import Bench
from tests.support.bodies import ARRAY, npy

WANTED = "expected ['batch', 3, 8, 8]"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (ARRAY[0], ("x: shape [3, 8, 8] came", WANTED)),
        (ARRAY[None], ("x: shape [1, 1, 3, 8, 8] came", WANTED)),
        (ARRAY[:, :1], ("x: shape [1, 1, 8, 8] came", WANTED)),
        (ARRAY[..., :7], ("x: shape [1, 3, 8, 7] came", WANTED)),
        (ARRAY[:0], ("x: shape [0, 3, 8, 8] holds no values",)),
        (ARRAY.astype(complex), ("x: complex128 came; expected float32",)),
        (ARRAY.astype("U4"), ("x: <U4 came; expected float32",)),
    ],
)
def test_row_07_wrong_arrays(served: Bench, value: Any, words: tuple[str, ...]) -> None:
    served.ask(npy(value), "tiny").reason(422, *words)


def test_row_07_the_same_as_json(served: Bench) -> None:
    body = json.dumps({"inputs": {"x": [[1.0, 2.0]]}}).encode()
    for kind in ("application/json", "application/octet-stream"):
        served.ask(body, "tiny", Content_Type=kind).reason(422, "x: shape [1, 2] came", WANTED)
    served.ask(b'{"inputs": {"z": [1]}}', "tiny").reason(400, "inputs z came; expected x")


def test_row_07_memory_order_and_type_do_not_change_the_answer(served: Bench) -> None:
    expected = served.ask(npy(ARRAY), "tiny")
    assert expected.status == 200
    for value in (np.asfortranarray(ARRAY), ARRAY.astype(np.float64), ARRAY.astype(">f4")):
        reply = served.ask(npy(value), "tiny")
        assert reply.json()["outputs"] == expected.json()["outputs"]
    as_json = json.dumps({"inputs": ARRAY.tolist()}).encode()
    outputs = served.ask(as_json, "tiny", Content_Type="application/json").json()["outputs"]
    np.testing.assert_allclose(
        outputs["y"]["data"], expected.json()["outputs"]["y"]["data"], rtol=1e-6
    )


def test_row_07_npz_comes_back_where_it_is_accepted(served: Bench) -> None:
    reply = served.ask(npy(ARRAY), "tiny", Accept="application/x-npz")
    assert (reply.status, reply.media_type) == (200, "application/x-npz")
    assert np.load(io.BytesIO(reply.body))["y"].shape == (1, 4, 8, 8)


def zipped(size: int, claimed: int | None = None) -> bytes:
    """A .npz with one array of so many zeros; ``claimed`` is what the zip's directory says."""
    out = io.BytesIO()
    array = np.zeros((size // 768, 3, 8, 8), np.float32)
    np.savez_compressed(out, x=array)
    data = out.getvalue()
    if claimed is not None:
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            (info,) = z.infolist()
        data = data.replace(struct.pack("<I", info.file_size), struct.pack("<I", claimed))
    return data


def test_row_40_what_unpacks_to_more_than_the_worker_may_take(served: Bench) -> None:
    """Row 40: refused from the directory, the header or the length, before it is unpacked."""
    (pid,) = served.pids("tiny")
    before = psutil.Process(pid).memory_info().rss
    large = 300 << 20
    body = zipped(large)
    assert len(body) < 1 << 20
    reply = served.ask(body, "tiny")
    reply.reason(413, "the .npz unpacks to 314,", "at most 6,291,456")
    assert reply.seconds < 2
    served.ask(zipped(large, 1000), "tiny").reason(400, "no .npy, .npz or JSON")
    head = io.BytesIO()
    shape = (large // 768, 3, 8, 8)
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": shape}
    )
    served.ask(head.getvalue(), "tiny").reason(413, "the array claims 314,", "at most 6,291,456")
    assert psutil.Process(pid).memory_info().rss - before < large // 4


@pytest.mark.parametrize("kind", ["application/json", "application/octet-stream"])
def test_row_40_json_that_would_unpack_to_more(served: Bench, kind: str) -> None:
    """Row 40: JSON by its length. TorchServe would unpack what is called JSON before any handler:
    the guard refuses that; the handler what is not called so."""
    body = b'{"inputs": {"x": [' + b"[]," * (1_900_000 // 3) + b"[]]}}"
    served.ask(body, "tiny", Content_Type=kind).reason(413, "JSON of 1,9")
    served.ask(body, "fd1", Content_Type=kind).reason(413, "JSON of 1,9")


def test_row_40_an_answer_far_larger_than_its_request(served: Bench) -> None:
    """Row 40: 8 MiB of answer for some KiB of zeros, where the server sends at most 2 MiB."""
    body = zipped(6_000_000)
    for accept in ("application/json", "application/x-npz"):
        reply = served.ask(body, "tiny", Accept=accept)
        reply.reason(413, "or more bytes and the server sends at most 2,097,152")
