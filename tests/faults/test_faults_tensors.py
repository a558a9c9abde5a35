"""Row 7: arrays of the wrong rank, size or type for a model of raw tensors; row 47: nothing in a
request is dropped."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import numpy as np
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
