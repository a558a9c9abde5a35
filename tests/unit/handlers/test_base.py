"""What a batch gets when some of its items, or all, go wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.artefact import Artefact
from handlers.base import Handler, header, threads_per_worker
from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import BadInput, ItemError, TooLarge, Unprocessable
from handlers.passport import Passport
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime

ARTEFACT = Artefact("none", (), "f32", {}, "tensors")
PASSPORT = Passport(
    name="words",
    version="1.0",
    task="tensors",
    handler="x:Y",
    source={},
    inputs=(),
    outputs=(),
    labels=(),
    settings={},
    artefacts={},
    gate={},
    versions={},
)


class Nothing(Runtime):
    """A runtime that is never asked."""

    name = "none"

    def activate(self) -> None:
        raise AssertionError("nothing here asks for this")

    def infer(self, inputs: dict[str, Any], every: bool = False) -> dict[str, Any]:
        raise AssertionError("nothing here asks for this")


Infer = Callable[[Sequence[str]], Sequence[str]]


class Words(Handler[str, str]):
    """Answers each word in capitals; ``how`` may be replaced to go wrong."""

    def __init__(self, how: Infer | None = None, threads: int = 1):
        super().__init__(PASSPORT, Loaded(Nothing(Path(), ARTEFACT, ()), ARTEFACT), threads)
        self.how: Infer = how or (lambda words: [word.upper() for word in words])
        self.batches: list[list[str]] = []

    def decode(self, data: bytes) -> str:
        word = data.decode()
        if word == "bad":
            raise Unprocessable("bad came; expected another word")
        if word == "bug":
            raise KeyError("bug")
        return word

    def infer(self, items: Sequence[str]) -> Sequence[str]:
        self.batches.append(list(items))
        return self.how(items)

    def encode(self, item: str, result: str, accept: str) -> tuple[bytes, str]:
        if result == "LONG":
            raise TooLarge("an answer too long")
        return f"{item}={result} {accept}".strip().encode(), "text/plain"


def answers(handler: Words, *words: str, **headers: str) -> tuple[list[int], list[str]]:
    context = LocalContext(Path(), headers=headers)
    found = handler.handle([{"body": word.encode()} for word in words], context)
    assert len(found) == len(words)
    return context.statuses, [body.decode() for body in found]


def test_a_local_context_forgets_the_batch_before() -> None:
    context = LocalContext(Path(), headers=[{"Accept": "a/b"}, {}])
    both = Words().handle([{"body": b"x"}, {"body": b"bad"}], context)
    assert (both[0], context.statuses) == (b"x=X a/b", [200, 422])
    assert Words().handle([{"body": b"x"}], context) == both[:1]
    assert context.statuses == [200]


@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_has_its_own_status(threads: int) -> None:
    handler = Words(threads=threads)
    statuses, found = answers(handler, "a", "bad", "b", "bug", "", "long", "c")
    assert statuses == [200, 422, 200, 500, 400, 413, 200]
    assert [found[i] for i in (0, 2, 6)] == ["a=A", "b=B", "c=C"]
    assert json.loads(found[1]) == {
        "code": 422,
        "type": "Unprocessable",
        "message": "bad came; expected another word",
    }
    assert json.loads(found[3])["message"] == (
        "a fault inside the handler (KeyError): see the worker's log"
    )
    assert handler.batches == [["a", "b", "long", "c"]]


def test_a_batch_without_a_good_item_is_not_inferred() -> None:
    handler = Words()
    assert answers(handler, "bad", "bad")[0] == [422, 422]
    assert handler.batches == []


def fails_on(word: str, error: Exception) -> Infer:
    def how(items: Sequence[str]) -> Sequence[str]:
        if word in items:
            raise error
        return [item.upper() for item in items]

    return how


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("x"), 500),
        (MemoryError(), 507),
        (RuntimeError("[CPU] Out of memory: tried 9 GB"), 507),
        (BadInput("no"), 400),
    ],
)
def test_the_item_that_breaks_inference_is_the_only_one_that_fails(
    error: Exception, status: int
) -> None:
    handler = Words(fails_on("b", error))
    statuses, found = answers(handler, "a", "b", "c")
    assert statuses == [200, status, 200]
    assert (found[0], found[2]) == ("a=A", "c=C")
    assert handler.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


def test_a_single_item_is_not_tried_twice() -> None:
    handler = Words(fails_on("b", ValueError("x")))
    assert answers(handler, "b")[0] == [500]
    assert handler.batches == [["b"]]


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_row_12_a_wrong_number_of_results_is_never_handed_out(count: int) -> None:
    """Row 12."""
    handler = Words(lambda items: ["X"] * count)
    statuses, found = answers(handler, "a", "b", "c")
    if count == 1:  # alone, one result for one item is right
        assert statuses == [200, 200, 200]
        assert handler.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]
        return
    assert statuses == [500, 500, 500]
    for body in found:
        assert json.loads(body)["message"].startswith(f"{count} results for 1 items")


def test_row_12_the_right_number_only_alone_gives_each_its_own() -> None:
    """Row 12."""
    handler = Words(lambda items: [w.upper() for w in items][: max(1, len(items) - 1)])
    statuses, found = answers(handler, "a", "b", "c")
    assert (statuses, found) == ([200] * 3, ["a=A", "b=B", "c=C"])


def test_the_accept_header_reaches_the_encoder_in_any_case() -> None:
    assert answers(Words(), "a", ACCEPT="Image/JPEG")[1] == ["a=A image/jpeg"]
    assert header({"accept": 3, "Accept": "x"}, "accept") == "x"
    assert header({}, "accept") == ""


def test_outcomes_are_counted_by_kind() -> None:
    handler = Words()
    context = LocalContext(Path())
    handler.handle([{"body": w.encode()} for w in ("a", "bad", "b", "bug")], context)
    totals = context.metrics.totals
    assert {k[1]: v for k, v in totals.items() if k[0] == "handler_items"} == {
        "ok": 2,
        "rejected": 1,
        "failed": 1,
    }
    assert set(context.stages_ms) == {"decode", "encode"}


def test_a_describe_header_inside_a_batch_is_no_describe_request() -> None:
    entry = Entry()
    entry.handler = Words()
    context = LocalContext(Path(), headers={"describe": "True"})
    (described,) = entry.handle([{"body": b"a"}], context)
    assert json.loads(described)["model"]["name"] == "words"
    rows = [{"body": b"a"}, {"body": b"b"}]
    assert entry.handle(rows, context) == [b"a=A", b"b=B"]


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("0", 1)])
def test_threads_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads_per_worker() == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads_per_worker() >= 1


def test_item_errors_carry_statuses_of_their_own() -> None:
    kinds = ItemError.__subclasses__()
    assert {kind.__name__: kind.status for kind in kinds} == {
        "BadInput": 400,
        "TooLarge": 413,
        "UnsupportedFormat": 415,
        "Unprocessable": 422,
        "InternalFault": 500,
        "OutOfMemory": 507,
    }
