"""Models of any kind, packed and asked as a server asks them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from handlers.context import LocalContext
from handlers.entry import Entry
from repack import archive, pipeline
from repack.options import Options, SourceOptions, Values
from tests.support import odd_models as odd
from tests.support.bodies import npy


class Packed:
    """The archive of a small model, unpacked and loaded."""

    def __init__(self, folder: Path, model: Path, backend: str = "onnxruntime", **options: Any):
        source = SourceOptions(model)
        asked = Options(source, model_store=folder, backend=backend, precision="f32", **options)
        self.folder = folder / "out"
        self.record = archive.unpack(pipeline.repack(asked), self.folder)
        self.entry = Entry()
        self.entry.initialize(LocalContext(self.folder))

    def ask(self, *bodies: Any, **headers: str) -> list[tuple[int, bytes]]:
        """Status and body of each answer of one batch."""
        context = LocalContext(self.folder, headers=headers)
        answers = self.entry.handle([{"body": body} for body in bodies], context)
        return list(zip(context.statuses, answers, strict=True))


def test_numbers_far_from_zero_keep_their_digits(tmp_path: Path) -> None:
    packed = Packed(tmp_path, odd.far_from_zero(tmp_path / "m.onnx"))
    body = b'{"inputs":{"x":[[1700000123.5,1700000001.25,1700000064.0]]}}'
    ((status, answer),) = packed.ask(body)
    assert status == 200
    assert json.loads(answer)["outputs"]["y"]["data"] == [[123.5, 1.25, 64.0]]


def test_an_output_may_be_called_file(tmp_path: Path) -> None:
    packed = Packed(tmp_path, odd.output_called_file(tmp_path / "m.onnx"))
    row = np.array([[1, 2, 3]], np.float32)
    ((status, answer),) = packed.ask(npy(row))
    assert (status, json.loads(answer)["outputs"]["file"]["data"]) == (200, row.tolist())
    ((status, answer),) = packed.ask(npy(row), accept="application/x-npz")
    assert status == 200
    np.testing.assert_array_equal(np.load(io.BytesIO(answer))["file"], row)


def test_a_token_beyond_the_table_costs_nobody_else_an_answer(tmp_path: Path) -> None:
    """OpenVINO itself answers zeros for it."""
    packed = Packed(tmp_path, odd.lookup(tmp_path / "m.onnx"), "openvino")
    good, bad = ({"inputs": {"ids": [[0, 1, 2, 3, 4, last]]}} for last in (6, 7))
    found = packed.ask(good, bad, good)
    assert [status for status, _ in found] == [200, 422, 200]
    assert json.loads(found[1][1])["message"] == "ids: 7 came; expected -7 to 6"


def test_a_value_that_the_runtime_alone_refuses_is_a_422(tmp_path: Path) -> None:
    packed = Packed(tmp_path, odd.lookup_further_on(tmp_path / "m.onnx"))
    good, bad = ({"inputs": {"ids": [[0, 1, 2, 3, 4, last]]}} for last in (5, 6))
    found = packed.ask(good, bad, good)
    assert [status for status, _ in found] == [200, 422, 200]
    message = json.loads(found[1][1])["message"]
    assert "the model does not run on these values" in message
    assert "indices element out of data bounds" in message


def test_a_rate_that_means_nothing_is_a_422(tmp_path: Path) -> None:
    values = {"sr": Values(among=(8000, 16000))}
    packed = Packed(tmp_path, odd.rated(tmp_path / "m.onnx"), input_values=values)
    rows = {"x": [[0.5] * 32], "state": [[[0.0] * 4]] * 2}
    found = packed.ask(*({"inputs": rows | {"sr": rate}} for rate in (8000, 7000, 16000)))
    assert [status for status, _ in found] == [200, 422, 200]
    assert json.loads(found[1][1])["message"] == "sr: 7000 came; expected 8000 or 16000"
