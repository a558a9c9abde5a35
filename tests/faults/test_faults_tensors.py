"""Row 7: arrays of the wrong rank, size or type for a model of raw tensors."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from tests.support.bench import Bench

GOOD = np.arange(192, dtype=np.float32).reshape(1, 3, 8, 8) / 192


def npy(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


WANTED = "expected ['batch', 3, 8, 8]"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (GOOD[0], ("x: shape [3, 8, 8] came", WANTED)),
        (GOOD[None], ("x: shape [1, 1, 3, 8, 8] came", WANTED)),
        (GOOD[:, :1], ("x: shape [1, 1, 8, 8] came", WANTED)),
        (GOOD[..., :7], ("x: shape [1, 3, 8, 7] came", WANTED)),
        (GOOD[:0], ("x: shape [0, 3, 8, 8] holds no values",)),
        (GOOD.astype(complex), ("x: complex128 came; expected float32",)),
        (GOOD.astype("U4"), ("x: <U4 came; expected float32",)),
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
    expected = served.ask(npy(GOOD), "tiny")
    assert expected.status == 200
    for value in (np.asfortranarray(GOOD), GOOD.astype(np.float64), GOOD.astype(">f4")):
        reply = served.ask(npy(value), "tiny")
        assert reply.json()["outputs"] == expected.json()["outputs"]
    as_json = json.dumps({"inputs": GOOD.tolist()}).encode()
    outputs = served.ask(as_json, "tiny", Content_Type="application/json").json()["outputs"]
    np.testing.assert_allclose(
        outputs["y"]["data"], expected.json()["outputs"]["y"]["data"], rtol=1e-6
    )


def test_row_07_npz_comes_back_where_it_is_accepted(served: Bench) -> None:
    reply = served.ask(npy(GOOD), "tiny", Accept="application/x-npz")
    assert (reply.status, reply.media_type) == (200, "application/x-npz")
    assert np.load(io.BytesIO(reply.body))["y"].shape == (1, 4, 8, 8)
