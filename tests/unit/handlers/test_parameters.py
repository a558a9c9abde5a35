"""A request's own settings: within what was packed, each item's own, the same from every head."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from deploy.torchserve.guard import http
from handlers import boxes, parameters
from handlers.artefact import Artefact, Options
from handlers.context import LocalContext
from handlers.detection import BoxesHandler, DetectionHandler
from handlers.errors import BadInput, ItemError, Unprocessable
from handlers.heads import SETTING, Head
from handlers.heads.rows import Masked, Posed, Ranked, Scored
from handlers.instances import InstancesHandler
from handlers.parameters import Limits
from handlers.passport import Passport, TensorSpec
from handlers.pose import PoseHandler
from handlers.runtimes import Loaded
from handlers.runtimes.base import Runtime
from tests.support import detector_maps as made

SIDE, LABELS = 96, ("cat", "dog", "a, b", "7")
SPEC = TensorSpec("images", "uint8", ("batch", SIDE, SIDE, 3), (0, 255), "NHWC")
PACKED = Limits(0.25, 0.45, 40)
HEADS: dict[str, tuple[Head, type[BoxesHandler[Any]]]] = {
    "yolov5": (made.HEAD, DetectionHandler),
    "scored": (Scored(classes=4), DetectionHandler),
    "ranked": (Ranked(classes=4), DetectionHandler),
    "posed": (Posed(classes=4, extras=6), PoseHandler),
    "masked": (Masked(classes=4, extras=2), InstancesHandler),
}


def rows(head: Head, seed: int) -> NDArray[np.float32]:
    """Boxes before suppression, decoded, many upon each other: ``[120, head.values]``."""
    rng = np.random.default_rng(seed)
    found = rng.random((120, head.values), np.float32)
    found[:, :2] = found[:, :2] * SIDE * 0.6 + SIDE * 0.2
    found[:, 2:4] = found[:, 2:4] * SIDE * 0.3 + 5
    if head.ranked:
        found[:, 2:4] += found[:, :2]
        found[:, 5] = rng.integers(0, 4, len(found))
    return found


class Made(Runtime):
    """Boxes of pictures that are told apart by their colour; with suppression in the graph, as
    "detections", it has those before it where every output is asked for."""

    name = "made"

    def activate(self) -> None: ...

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        assert self.head is not None
        whole = np.stack([rows(self.head, int(p[0, 0, 0])) for p in inputs["images"]])
        beside = {"protos": np.ones((len(whole), 2, 24, 24), np.float32)}
        if self.artefact.output == "boxes":
            return {"boxes": whole, **beside}
        found = [boxes.nms(w, self.head, PACKED.confidence, PACKED.iou, 40) for w in whole]
        numbered = [np.insert(f[::-1], 0, i, axis=1) for i, f in enumerate(found)]
        answer = {"detections": np.concatenate(numbered), **beside}
        return {**answer, "boxes": whole} if every else answer


def handler(name: str, output: str) -> BoxesHandler[Any]:
    head, kind = HEADS[name]
    settings = {"confidence": 0.25, "iou": 0.45, "max_detections": 40, SETTING: head.to_setting()}
    passport = Passport(
        name="d", version="1.0", task="detection", handler="", source={}, inputs=(SPEC,),
        outputs=(), labels=LABELS, settings=settings, artefacts={}, gate={}, versions={},
    )  # fmt: skip
    artefact = Artefact("made", (), "f32", {}, output, Options())
    return kind(passport, Loaded(Made(Path(), artefact, (SPEC,), head=head), artefact))


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (number, 0, 0)).save(out, "PNG")
    return out.getvalue()


def ask(used: BoxesHandler[Any], *asked: str) -> tuple[list[int], list[dict[str, Any]]]:
    """One batch: picture 1, 2, ... with each its own query string."""
    context = LocalContext(Path(), headers=[{"X-Parameters": text} for text in asked])
    bodies = [{"body": picture(i)} for i in range(1, len(asked) + 1)]
    answers = [json.loads(a) for a in used.handle(bodies, context)]
    return context.statuses, answers


def shown(answer: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(d["class_id"], d["confidence"], *d["box"]) for d in answer["detections"]]


def want(head: Head, seed: int, limits: Limits) -> list[tuple[Any, ...]]:
    """By the definition: suppression with that overlap, of which the limits leave some."""
    found = boxes.nms(rows(head, seed), head, 0.25, limits.iou, 40)
    kept = [
        row for row in found.tolist()
        if row[4] > limits.confidence and row[5] in (limits.classes or range(4))
    ][: limits.max_detections]  # fmt: skip
    clipped = [[min(max(v, 0), SIDE) for v in row[:4]] for row in kept]
    return [
        (int(row[5]), round(row[4], 4), *(round(v, 2) for v in box))
        for row, box in zip(kept, clipped, strict=True)
    ]


ENDS = [(name, "boxes") for name in HEADS]
ENDS += [(name, "detections") for name, (head, _) in HEADS.items() if not head.ranked]


@pytest.mark.parametrize(("name", "output"), ENDS)
def test_each_item_of_a_batch_gets_its_own(name: str, output: str) -> None:
    head = HEADS[name][0]
    asked = [
        ("", PACKED),
        ("conf=0.7", Limits(0.7, 0.45, 40)),
        ("classes=dog,7", Limits(0.25, 0.45, 40, (1, 3))),
        ("max_det=2&classes=0", Limits(0.25, 0.45, 2, (0,))),
        *([] if head.ranked else [("iou=0.05", Limits(0.25, 0.05, 40)),
                                  ("iou=0.9&conf=0.5", Limits(0.5, 0.9, 40))]),
        ("", PACKED),
    ]  # fmt: skip
    statuses, answers = ask(handler(name, output), *(text for text, _ in asked))
    assert statuses == [200] * len(asked)
    found = [shown(a) for a in answers]
    assert found == [want(head, i, limits) for i, (_, limits) in enumerate(asked, 1)]
    assert all(found)
    assert "parameters" not in answers[0]
    labels = [LABELS[i] for i in (1, 3)]
    iou = {} if head.ranked else {"iou": 0.45}
    assert answers[2]["parameters"] == {"conf": 0.25, "max_det": 40, "classes": labels, **iou}


def test_an_overlap_is_that_of_all_boxes_not_of_those_that_were_left() -> None:
    """What suppression in the graph leaves is not enough to suppress anew."""
    used = handler("scored", "detections")
    _, (answer,) = ask(used, "iou=0.05")
    left = boxes.nms(rows(HEADS["scored"][0], 1), HEADS["scored"][0], 0.25, 0.45, 40)
    anew = boxes.suppressed(left, 0.05, 40)
    assert len(answer["detections"]) != len(anew)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("conf=0.1", Unprocessable, "conf 0.1 came; expected a number from 0.25, which is packed"),
        ("conf=nan", Unprocessable, "conf nan came; expected a number from 0.25"),
        ("conf=x", Unprocessable, "conf x came"),
        ("iou=1.5", Unprocessable, "iou 1.5 came; expected 0 to 1"),
        ("max_det=41", Unprocessable, "max_det 41 came; expected a whole number from 1 to 40, whi"),
        ("max_det=0", Unprocessable, "max_det 0 came"),
        ("max_det=2.5", Unprocessable, "max_det 2.5 came"),
        ("classes=dog,cow", Unprocessable, "'cow' came; expected names or numbers of cat, dog, a"),
        ("classes=4", Unprocessable, "classes '4' came; expected names or numbers"),
        ("classes=-1", Unprocessable, "classes '-1' came"),
        ("threshold=0.9&conf=1", BadInput, "parameters threshold came; expected conf, iou, classe"),
        ("conf=0.5&conf=0.6", BadInput, "parameters conf came twice"),
        ("conf=", BadInput, "parameters conf came empty"),
        ("conf", BadInput, "parameters conf came empty"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(text: str, error: type[ItemError], says: str) -> None:
    statuses, answers = ask(handler("scored", "boxes"), "", text)
    assert statuses == [200, error.status]
    assert says in answers[1]["message"]


def test_a_class_that_nobody_counted_is_named_by_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of the network's own choice do not say how many classes there are."""
    found = rows(HEADS["ranked"][0], 1)
    found[:, 5] = 79
    monkeypatch.setattr(Made, "infer", lambda *_: {"boxes": found[None]})
    statuses, (answer,) = ask(handler("ranked", "boxes"), "")
    assert statuses == [200]
    assert {(d["class"], d["class_id"]) for d in answer["detections"]} == {("79", 79)}


def test_a_network_that_chooses_its_boxes_has_no_overlap() -> None:
    statuses, (answer,) = ask(handler("ranked", "boxes"), "iou=0.45")
    assert statuses == [422]
    assert "this network chooses its boxes itself, and nothing is suppressed" in answer["message"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("a, b", (2,)), ("7", (3,)), ("3, 0", (0, 3)), ("dog,1", (1,)), ("a, b,dog", None)],
)
def test_classes_are_names_or_numbers(text: str, found: tuple[int, ...] | None) -> None:
    """A name goes before a number; one that holds a comma stands alone."""
    if found is None:
        with pytest.raises(Unprocessable, match="classes 'a', 'b' came"):
            parameters.limits({"classes": text}, PACKED, LABELS)
        return
    assert parameters.limits({"classes": text}, PACKED, LABELS).classes == found


@pytest.mark.parametrize(
    ("row", "rest", "given"),
    [
        ({"data": b"x", "conf": b"0.5"}, {"data": b"x"}, {"conf": "0.5"}),
        ({"body": {"data": "x", "conf": 0.5}}, {"body": {"data": "x"}}, {"conf": "0.5"}),
        ({"body": {"b64": "x", "classes": [1, "a"]}}, {"body": {"b64": "x"}}, {"classes": "1,a"}),
        ({"data": b"x", "top": b"3"}, {"data": b"x", "top": b"3"}, {}),
        ({"body": b"x"}, {"body": b"x"}, {}),
    ],
)
def test_settings_may_be_fields_beside_the_input(
    row: dict[str, Any], rest: dict[str, Any], given: dict[str, str]
) -> None:
    assert parameters.taken(row, "", BoxesHandler.parameters) == (rest, given)
    with pytest.raises(BadInput, match="conf came twice"):
        parameters.taken({"data": b"x", "conf": b"1"}, "conf=1", BoxesHandler.parameters)
    with pytest.raises(BadInput, match="parameter conf: dict came"):
        parameters.taken({"data": b"x", "conf": {}}, "", BoxesHandler.parameters)


def test_an_answer_that_is_no_json_says_it_in_a_header() -> None:
    used = handler("scored", "boxes")
    context = LocalContext(Path(), headers={"accept": "image/jpeg", "x-parameters": "conf=0.5"})
    used.handle([{"body": picture(1)}], context)
    told = parse_qs(context.response_headers[0]["x-parameters"])
    assert told == {"iou": ["0.45"], "conf": ["0.5"], "max_det": ["40"], "classes": ["all"]}


def test_the_guard_hands_a_query_string_on_in_the_handlers_header() -> None:
    assert parameters.HEADER.encode() == http.PARAMETERS
