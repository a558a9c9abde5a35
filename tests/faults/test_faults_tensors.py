"""Rows 7, 8, 40, 47 and 48: arrays that a model of raw tensors does not take, and how they may lie.

Row 8 with an engine's profile needs a GPU: tests/gpu/test_gpu_engines.py.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.bench import GOOD, Bench
from tests.support.bodies import ARRAY, form, npy

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


def test_row_08_memory_order_and_type_do_not_change_the_answer(served: Bench) -> None:
    """Row 8: input that is not contiguous."""
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


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize("way", ["json", "npz"])
def test_row_47_tensors_that_the_model_has_not(served: Bench, way: str) -> None:
    """Row 47: one beside the right one is not dropped in silence."""
    body = npz(x=ARRAY, mask=ARRAY)
    if way == "json":
        body = json.dumps({"inputs": {"x": ARRAY.tolist(), "mask": [1]}}).encode()
    words = "inputs mask came, which the model has not; expected x"
    served.ask(body, "tiny").reason(422, words)


def test_row_48_an_answer_that_is_not_finite(served: Bench) -> None:
    """Row 48: 422 where JSON cannot carry it; .npz can."""
    body = npy(ARRAY * np.float32(3e38))
    served.ask(body, "tiny").reason(422, "output y holds NaN or infinity")
    reply = served.ask(body, "tiny", Accept="application/x-npz")
    assert not np.isfinite(np.load(io.BytesIO(reply.body))["y"]).all()


def test_row_07_npz_comes_back_where_it_is_accepted(served: Bench) -> None:
    reply = served.ask(npy(ARRAY), "tiny", Accept="application/x-npz")
    assert (reply.status, reply.media_type) == (200, "application/x-npz")
    assert np.load(io.BytesIO(reply.body))["y"].shape == (1, 4, 8, 8)


def test_row_47_what_comes_beside_the_tensors_is_named(served: Bench) -> None:
    body = json.dumps({"inputs": ARRAY.tolist(), "top": 3}).encode()
    for kind in ("application/json", "application/octet-stream"):
        served.ask(body, "tiny", Content_Type=kind).reason(400, "inputs, top came; expected one")
    data, kind = form(("data", "x.npy", npy(ARRAY)), ("top", "", b"3"))
    served.ask(data, "tiny", Content_Type=kind).reason(400, "parameters data, top came")


def test_row_40_a_compressed_body_is_unpacked_within_the_servers_limit(served: Bench) -> None:
    expected = served.ask(npy(ARRAY), "tiny").json()["outputs"]
    as_json = json.dumps({"inputs": ARRAY.tolist()}).encode()
    for body, kind in ((npy(ARRAY), "application/octet-stream"), (as_json, "application/json")):
        reply = served.ask(gzip.compress(body), "tiny", Content_Encoding="gzip", Content_Type=kind)
        outputs = reply.json()["outputs"]
        np.testing.assert_allclose(outputs["y"]["data"], expected["y"]["data"], rtol=1e-6)
    assert served.ask(gzip.compress(GOOD), Content_Encoding="gzip").status == 200
    bomb = gzip.compress(bytes(3 << 20))
    served.ask(bomb, "tiny", Content_Encoding="gzip").reason(413, "more than 2,097,152 bytes")


def test_instances_as_tensorflow_serving_has_them(served: Bench) -> None:
    expected = served.ask(npy(ARRAY), "tiny").json()["outputs"]["y"]["data"]
    for body in ({"instances": ARRAY.tolist()}, {"instances": [{"x": ARRAY[0].tolist()}]}):
        data = json.dumps(body).encode()
        reply = served.ask(data, "tiny", Content_Type="application/json")
        np.testing.assert_allclose(reply.json()["predictions"], expected, rtol=1e-6)


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
    """Row 40: JSON by its elements. TorchServe would unpack what is called JSON before any handler:
    the guard refuses that; the handler what is not called so."""
    body = b'{"inputs": {"x": [' + b"[]," * (1_900_000 // 3) + b"[]]}}"
    served.ask(body, "tiny", Content_Type=kind).reason(413, "JSON of ", "of memory")
    served.ask(body, "fd1", Content_Type=kind).reason(413, "JSON of ", "of memory")


def test_row_40_an_answer_far_larger_than_its_request(served: Bench) -> None:
    """Row 40: 8 MiB of answer for some KiB of zeros, where the server sends at most 2 MiB."""
    body = zipped(6_000_000)
    for accept in ("application/json", "application/x-npz"):
        reply = served.ask(body, "tiny", Accept=accept)
        reply.reason(413, "or more bytes and the server sends at most 2,097,152")
