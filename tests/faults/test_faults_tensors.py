"""Row 7: arrays of the wrong rank, size or type for a model of raw tensors."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
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
