"""Raw tensors: what is read, what is refused, and what an answer looks like."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import payload, tensors
from handlers.artefact import Artefact
from handlers.context import LocalContext
from handlers.errors import Unprocessable
from handlers.passport import Passport, TensorSpec
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime
from handlers.tensors import TensorHandler

Answer = tuple[int, dict[str, Any]]

X = TensorSpec("x", "float32", ("batch", 2, 3))
N = TensorSpec("n", "uint8", (2,))


class Adder(Runtime):
    """Answers x + 1; a value of 13 becomes NaN."""

    name = "adder"

    def activate(self) -> None:
        raise AssertionError("nothing here asks for this")

    def infer(self, inputs: dict[str, Any], every: bool = False) -> dict[str, Any]:
        for value, spec in zip(inputs.values(), self.inputs, strict=True):
            assert value.flags.c_contiguous
            assert value.dtype == spec.dtype
        x = next(iter(inputs.values()))
        return {"y": np.where(x == 13, np.nan, x + 1)}


def handler(*inputs: TensorSpec) -> TensorHandler:
    artefact = Artefact("adder", (), "f32", {}, "tensors")
    record = Passport(
        name="adder", version="1.0", task="tensors", handler="", source={}, inputs=inputs,
        outputs=(), labels=(), settings={}, artefacts={}, gate={}, versions={},
    )  # fmt: skip
    return TensorHandler(record, Loaded(Adder(Path(), artefact, inputs), artefact))


ONE, TWO = handler(X), handler(X, N)


def ask(body: Any, which: TensorHandler = ONE, name: str = "body") -> Answer:
    context = LocalContext(Path())
    (answer,) = which.handle([{name: body}], context)
    return context.statuses[0], json.loads(answer)


def npy(value: Any, pickled: bool = False) -> bytes:
    out = io.BytesIO()
    np.save(out, value, allow_pickle=pickled)
    return out.getvalue()


def npz(**values: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **values)
    return out.getvalue()


GOOD = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
AS_JSON = json.dumps({"inputs": {"x": GOOD.tolist()}})


@pytest.mark.parametrize(
    "body",
    [
        npy(GOOD),
        npz(x=GOOD),
        npy(np.asfortranarray(GOOD)),
        npy(GOOD.astype(">f4")),
        npy(GOOD.astype(np.float64)),
        npy(GOOD.astype(np.int32)),
        AS_JSON.encode(),
        json.loads(AS_JSON),
        json.dumps({"inputs": GOOD.tolist()}).encode(),
    ],
)
def test_the_same_tensor_in_every_form(body: Any) -> None:
    status, answer = ask(body)
    assert status == 200
    output = answer["outputs"]["y"]
    assert output["shape"] == [2, 2, 3]
    np.testing.assert_array_equal(output["data"], GOOD + 1)


def test_several_inputs() -> None:
    n = np.array([1, 255], np.uint8)
    for body in (
        npz(x=GOOD, n=n),
        json.dumps({"inputs": {"x": GOOD.tolist(), "n": n.tolist()}}).encode(),
    ):
        assert ask(body, TWO)[0] == 200


@pytest.mark.parametrize(
    ("body", "which", "status", "words"),
    [
        (npy(GOOD[0]), ONE, 422, "x: shape [2, 3] came; expected ['batch', 2, 3]"),
        (npy(GOOD[:, :, :2]), ONE, 422, "x: shape [2, 2, 2] came; expected ['batch', 2, 3]"),
        (npy(GOOD[:0]), ONE, 422, "x: shape [0, 2, 3] holds no values"),
        (npy(GOOD.astype(complex)), ONE, 422, "x: complex128 came; expected float32"),
        (npy(GOOD.astype("U3")), ONE, 422, "x: <U3 came; expected float32"),
        (npz(z=GOOD), ONE, 400, "inputs z came; expected x"),
        (npz(), ONE, 400, ""),
        (npz(x=GOOD, z=GOOD), ONE, 422, "inputs z came, which the model has not; expected x"),
        (npz(x=GOOD), TWO, 400, "inputs x came; expected n"),
        (npy(GOOD), TWO, 400, "the model has inputs x, n: send .npz"),
        (npz(x=GOOD, n=np.array([1.0, 2.0])), TWO, 422, "n: float64 came; expected uint8"),
        (
            npz(x=GOOD, n=np.array([1, 256])),
            TWO,
            422,
            "n: values from 1 to 256 came; expected uint8",
        ),
        (npz(x=GOOD, n=np.array([-1, 2])), TWO, 422, "n: values from -1 to 2 came; expected uint8"),
        (b'{"inputs": {"x": [[1], [2, 3]]}}', ONE, 400, "no .npy, .npz or JSON"),
        (b'{"inputs": {"x": [["a"]]}}', ONE, 400, "expected numbers in equally long rows"),
        (b'{"inputs": {"x": null}}', ONE, 400, "expected numbers"),
        (b'{"inputs": {"x": [1]}, "top": 3}', ONE, 400, "fields inputs, top came; expected one"),
        (b'{"inputs": {"x": [1]}, "top": null}', ONE, 400, "fields inputs, top came"),
        (b'{"inputs": [1], "instances": [1]}', ONE, 400, "fields inputs, instances came"),
        (b'{"instances": {"x": [1]}}', ONE, 400, "expected a list of values"),
        (b'{"instances": []}', ONE, 400, "expected a list of values"),
        (b'{"instances": [{"x": 1}, 2]}', ONE, 400, "or of mappings by name"),
        (b'{"instances": [{"x": 1}, {"y": 2}]}', ONE, 400, "the same names in each"),
        (b'{"inputs": [1, 2]}', TWO, 400, "the model has inputs x, n: name them"),
        (npy(GOOD.astype(np.float64) + 1e39), ONE, 422, "x: values beyond those of float32 came"),
        (b'{"inputs": ', ONE, 400, "no .npy, .npz or JSON"),
        (b'{"inputs": {"a\\nb": [1]}}', ONE, 400, "inputs a b came; expected x"),
        (b'{"x": 1}', ONE, 400, ""),
        (b'{"inputs":' * 100_000, ONE, 400, "no .npy, .npz or JSON"),
        (b"hello", ONE, 400, "5 bytes that are no .npy, .npz or JSON"),
        (b"", ONE, 400, "0 bytes came"),
        (npy(GOOD)[:-1], ONE, 400, "expected 48 bytes got 47"),
        (npy(GOOD)[:20], ONE, 400, "no .npy, .npz or JSON"),
        (npz(x=GOOD)[:-5], ONE, 400, "no .npy, .npz or JSON"),
    ],
)
def test_refusals_say_what_came_and_what_was_expected(
    body: bytes, which: TensorHandler, status: int, words: str
) -> None:
    found, answer = ask(body, which)
    assert found == status, answer
    assert words in answer["message"]
    assert "\n" not in answer["message"]


def test_instances_are_answered_by_predictions() -> None:
    for body in (
        {"instances": GOOD.tolist()},
        {"signature_name": "serving_default", "instances": [{"x": row} for row in GOOD.tolist()]},
        json.dumps({"instances": GOOD.tolist()}).encode(),
    ):
        status, answer = ask(body)
        assert status == 200, answer
        np.testing.assert_array_equal(answer["predictions"], GOOD + 1)
        assert set(answer) == {"model", "runtime", "predictions"}
    rows = [{"x": row, "n": i} for i, row in enumerate(GOOD.tolist())]
    assert ask({"instances": rows}, TWO)[0] == 200


def test_predictions_of_several_outputs_are_by_name() -> None:
    one, two = np.zeros((2, 3)), np.ones(2)
    found = tensors._predictions({"a": one, "b": two}, 2)
    assert found == {"predictions": [{"a": [0, 0, 0], "b": 1}] * 2}
    with pytest.raises(Unprocessable, match=r"output a is \[2, 3\] for 3 instances"):
        tensors._predictions({"a": one}, 3)


LIMITED = handler(
    TensorSpec("ids", "int64", ("any",), (-7, 6)),
    TensorSpec("sr", "int64", (), values=(8000, 16000)),
)


@pytest.mark.parametrize(
    ("ids", "rate", "words"),
    [
        ([0, 7], 8000, "ids: 7 came; expected -7 to 6"),
        ([-8], 8000, "ids: -8 came; expected -7 to 6"),
        ([0], 44100, "sr: 44100 came; expected 8000 or 16000"),
    ],
)
def test_values_for_which_the_model_was_not_made(ids: list[int], rate: int, words: str) -> None:
    status, answer = ask({"inputs": {"ids": ids, "sr": rate}}, LIMITED)
    assert (status, words in answer["message"]) == (422, True), answer
    assert ask({"inputs": {"ids": [-7, 6], "sr": 16000}}, LIMITED)[0] == 200


def test_a_single_value_stays_one() -> None:
    spec = TensorSpec("sr", "int64", ())
    assert tensors.check({"sr": np.array(16000)}, spec).shape == ()


def test_numbers_beyond_53_bits_arrive_as_they_are() -> None:
    for kind, value in (("int64", 2**62 + 1), ("int64", -(2**53) - 1), ("float64", 1 + 2**-52)):
        spec = TensorSpec("x", kind, (1,))
        body = json.dumps({"inputs": [value]}).encode()
        assert handler(spec).decode(body).tensors["x"].tolist() == [value]


def test_parameters_beside_the_body_are_refused() -> None:
    context = LocalContext(Path())
    (answer,) = ONE.handle([{"body": AS_JSON.encode(), "top": b"3"}], context)
    assert context.statuses == [400]
    assert "fields or parameters body, top came" in json.loads(answer)["message"]


def zipped(body: bytes, encoding: str = "gzip") -> Answer:
    context = LocalContext(Path(), headers={"Content-Encoding": encoding})
    (answer,) = ONE.handle([{"body": bytearray(body)}], context)
    return context.statuses[0], json.loads(answer)


def test_a_gzip_body_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(payload.MAX_BODY_VARIABLE, "1000")
    for body in (npy(GOOD), npz(x=GOOD), AS_JSON.encode()):
        assert zipped(gzip.compress(body)) == zipped(body, "identity")
    for body, status, words in (
        (gzip.compress(bytes(10_000_000)), 413, "unpacks to more than 1,000 bytes"),
        (gzip.compress(npy(GOOD))[:-3], 400, "truncated"),
        (gzip.compress(npy(GOOD)) + b"more", 400, "more behind its end"),
        (npy(GOOD), 400, "the body is not"),
        (b"", 400, "truncated"),
    ):
        found, answer = zipped(body)
        assert (found, words in answer["message"]) == (status, True), answer
    assert zipped(npy(GOOD), "br")[0] == 415


class Canary:
    """Its pickle would write a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["npy", "npz", "pickle"])
def test_pickles_are_refused_and_have_not_run(tmp_path: Path, form: str) -> None:
    canary = tmp_path / "ran"
    value = np.array([Canary(canary)], dtype=object)
    body = pickle.dumps(Canary(canary)) if form == "pickle" else npy(value, pickled=True)
    if form == "npz":
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as z:
            z.writestr("x.npy", body)
        body = out.getvalue()
    status, answer = ask(body)
    assert status == 400
    assert "\n" not in answer["message"]
    assert not canary.exists()


def header(shape: Sequence[int], dtype: str = "<f4") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (header((10**6, 10**6)) + bytes(100), 413, "claims 4,000,000,000,000 bytes; at most"),
        (header((2**40, 2**40)) + bytes(100), 413, "claims"),
        (header((1000, 1000)) + bytes(100), 400, "header claims 4,000,000 bytes"),
        (header((-1, 2, 3)) + bytes(100), 400, ""),
        (header((2, 2, 3), "O") + bytes(100), 400, ""),
    ],
)
def test_a_header_that_lies_is_refused(body: bytes, status: int, words: str) -> None:
    found, answer = ask(body)
    assert (found, words in answer["message"]) == (status, True), answer


def test_a_zip_that_unpacks_to_too_much_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for i in range(3):
            with z.open(f"x{i}.npy", "w", force_zip64=True) as member:
                for _ in range(24):
                    member.write(bytes(1 << 24))
    assert len(out.getvalue()) < 10_000_000
    status, answer = ask(out.getvalue())
    assert status == 413
    assert "the .npz unpacks to 1,207,959,552 bytes; at most" in answer["message"]


def test_an_answer_with_nan_is_valid_json_or_npz() -> None:
    body = npy(np.full((1, 2, 3), 13, np.float32))
    status, answer = ask(body)
    assert status == 422
    assert "output y holds NaN or infinity" in answer["message"]
    context = LocalContext(Path(), headers={"Accept": "application/x-npz"})
    (raw,) = ONE.handle([{"body": body}], context)
    assert (context.statuses, context.content_types) == ([200], ["application/x-npz"])
    assert np.isnan(np.load(io.BytesIO(raw))["y"]).all()


def test_one_bad_item_leaves_the_others_alone() -> None:
    context = LocalContext(Path())
    rows = [{"body": npy(GOOD)}, {"body": npy(GOOD[0])}, {"data": npy(GOOD * 2)}]
    found = [json.loads(body) for body in ONE.handle(rows, context)]
    assert context.statuses == [200, 422, 200]
    np.testing.assert_array_equal(found[2]["outputs"]["y"]["data"], GOOD * 2 + 1)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x93NUMPY", b"PK\x03\x04", b'{"inputs": ']))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_with_valid_json(data: bytes, head: bytes) -> None:
    status, answer = ask(head + data)
    assert status in (400, 413, 415, 422), answer
    assert "\n" not in answer["message"]
