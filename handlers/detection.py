"""Object detectors: a picture in, boxes with class names out."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from handlers import batches, boxes, heads, images, parameters, payload
from handlers.accept import chosen
from handlers.base import Handler, guard
from handlers.drawing import draw
from handlers.errors import ItemError
from handlers.gpu.server.pipeline import SharedPipeline
from handlers.images import Item
from handlers.letterbox import Letterbox
from handlers.parameters import Limits
from handlers.passport import Passport
from handlers.runtimes import Loaded
from handlers.runtimes.device import DeviceRuntime
from handlers.runtimes.shared import Shared

if TYPE_CHECKING:
    from handlers.gpu.pipeline import Pipeline

logger = logging.getLogger(__name__)


Result = TypeVar("Result")


class BoxesHandler(Handler[Item, Result], Generic[Result]):
    """Fits pictures into the model's input and finds boxes in the picture's own pixels.

    Where the model runs on a GPU, so does all but the reading of headers (``handlers.gpu``), for
    heads whose boxes are all that is answered.

    A request may raise the packed confidence, lower the most boxes and name the only classes, all
    of what would be answered else; and set another overlap for suppression.
    """

    parameters = ("conf", "iou", "classes", "max_det")

    def __init__(self, passport: Passport, loaded: Loaded, threads: int = 1):
        super().__init__(passport, loaded, threads)
        self._head = heads.required(passport.settings)
        self._mode = passport.settings.get("resize_mode", "letterbox")
        s = passport.settings
        iou = None if self._head.ranked else float(s["iou"])
        self._packed = Limits(float(s["confidence"]), iou, int(s["max_detections"]))
        about = {"model": self.model_info(), "runtime": self.runtime_info()}
        self._about = json.dumps(about)[:-1]
        self._gpu: Pipeline | SharedPipeline | None = None
        if isinstance(self.runtime, DeviceRuntime) and not self._head.extras:
            from handlers.gpu.pipeline import Pipeline

            self._gpu = Pipeline(self.runtime, passport, self.stages)
        elif isinstance(self.runtime, Shared):
            self._gpu = SharedPipeline(self.runtime.client, passport, self.stages)

    def decode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Item | ItemError]:
        """Where the GPU decodes, headers are read in turn: a thread costs more than a header."""
        if self._gpu is None:
            return super().decode_batch(rows)
        found: list[Any] = [guard(lambda row=row: _peeked(payload.read(row))) for row in rows]  # type: ignore[misc]
        here = [i for i, item in enumerate(found) if isinstance(item, bytes)]
        decoded = self._each(self.decode, [found[i] for i in here])
        for i, item in zip(here, decoded, strict=True):
            found[i] = item
        return found

    def decode(self, data: bytes) -> Item:
        picture = images.decode_to_fit(data, self._fit(), cover=self._mode == "stretch")
        return Item(picture.height, picture.width, picture, data)

    def with_parameters(self, item: Item, given: Mapping[str, str]) -> Item:
        return item._replace(limits=parameters.limits(given, self._packed, self.passport.labels))

    def infer(self, items: Sequence[Item]) -> Sequence[Result]:
        if self._gpu is None:
            return self._infer_here(items)
        found = self._infer_gpu(self._gpu, items)
        return [
            self._result(each, item, place, {})
            for (each, place), item in zip(found, items, strict=True)
        ]

    def _result(
        self, found: boxes.Boxes, item: Item, place: Letterbox, beside: Mapping[str, NDArray[Any]]
    ) -> Result:
        """Of boxes in pixels of the model's input, what is answered."""
        mine = found if item.limits is None else boxes.within(found, item.limits)
        mine = boxes.to_picture(mine, place, item.width, item.height)
        return self.result(mine, item, place, beside)

    @abstractmethod
    def result(
        self,
        found: boxes.Boxes,
        item: Item,
        place: Letterbox,
        beside: Mapping[str, NDArray[Any]],
    ) -> Result:
        """What one picture is answered with.

        Args:
            found: corners in pixels of the picture; extras as the model gives them.
            place: where the picture lies in the model's input.
            beside: by name what the model gave of this picture beside its boxes.
        """

    @abstractmethod
    def rows(self, result: Result) -> boxes.Boxes:
        """The result's boxes."""

    def _infer_gpu(
        self, gpu: Pipeline | SharedPipeline, items: Sequence[Item]
    ) -> list[tuple[boxes.Boxes, Letterbox]]:
        try:
            return gpu.boxes(items)
        except RuntimeError as e:
            if "out of memory" in str(e).lower() or all(item.picture for item in items):
                raise
            # nvJPEG says no to the whole call; alone on the CPU, each picture gets its own error.
            if len(items) > 1:
                raise
            logger.info("decoded on the CPU, since the GPU did not: %s", str(e).splitlines()[0])
            return gpu.boxes([self.decode(items[0].data)])

    def _infer_here(self, items: Sequence[Item]) -> list[Result]:
        spec = self.passport.inputs[0]
        with self.stages.measure("preprocess"):
            batch, places = self._preprocess(items)
        results: list[Result] = []
        for part, count in batches.of(spec, batch):
            asked = [item.limits or self._packed for item in items[len(results) :][:count]]
            # A graph that ends in suppression has what came before it among its other outputs.
            every = any(limits.iou != self._packed.iou for limits in asked)
            with self.stages.measure("infer"):
                output = self.runtime.infer({spec.name: part}, every)
            with self.stages.measure("postprocess"):
                for i, found in enumerate(self._found(output, asked)):
                    item, place = items[len(results)], places[len(results)]
                    beside = {name: output[name][i] for name in self._head.beside}
                    results.append(self._result(found, item, place, beside))
        return results

    def encode(self, item: Item, result: Result, accept: str) -> tuple[bytes, str]:
        if chosen(accept, ("application/json", "image/jpeg")) == "image/jpeg":
            whole = images.decode(item.data)
            return images.encode_jpeg(draw(whole, self.detections(result))), "image/jpeg"
        size, detections = {"width": item.width, "height": item.height}, self.detections(result)
        rest: dict[str, Any] = {"image": size, "detections": detections}
        if item.limits is not None:
            rest = {"parameters": item.limits.shown(self.passport.labels), **rest}
        # The same words in every answer: written once.
        return f"{self._about}, {json.dumps(rest)[1:]}".encode(), "application/json"

    def headers(self, item: Item, result: Result) -> Mapping[str, str]:
        if item.limits is None:
            return {}
        return {parameters.HEADER: parameters.line(item.limits.shown(self.passport.labels))}

    def detections(self, result: Result) -> list[dict[str, Any]]:
        """Boxes as the answer has them, most confident first, coordinates to 0.01 px; a class that
        was not counted when it was packed is named by its number."""
        labels, found = self.passport.labels, self.rows(result)
        return [
            {
                "class": labels[int(kind)] if 0 <= kind < len(labels) else f"{kind:g}",
                "class_id": int(kind),
                "confidence": round(confidence, 4),
                "box": [round(v, 2) for v in box],
            }
            for *box, confidence, kind in found[:, :6].tolist()
        ]

    def _fit(self) -> tuple[int, int]:
        """Height and width of the model's input, pixels."""
        spec = self.passport.inputs[0]
        axes = dict(zip(spec.layout, spec.shape, strict=True))
        return int(axes["H"]), int(axes["W"])

    def _preprocess(self, items: Sequence[Item]) -> tuple[NDArray[Any], list[Letterbox]]:
        spec = self.passport.inputs[0]
        fitted = [
            images.letterbox(
                item.picture.pixels, *self._fit(), (item.height, item.width), self._mode
            )
            for item in items
            if item.picture is not None
        ]
        batch = np.stack([picture for picture, _ in fitted])
        places = [place for _, place in fitted]
        if spec.dtype == "uint8":
            return batch, places
        scaled = batch.astype(np.float32) / np.float32(255)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)), places

    def _found(self, output: dict[str, NDArray[Any]], asked: Sequence[Limits]) -> list[boxes.Boxes]:
        """Boxes per item, in pixels of the model's input, most confident first: by the packed
        confidence and number, and each item's overlap."""
        confidence, iou, limit, _ = astuple(self._packed)
        ended = self.artefact.output == "detections"
        values = output["detections"] if ended else np.zeros((0, 1), np.float32)
        owner = values[:, 0].astype(np.int64)
        every = None
        found = []
        for i, limits in enumerate(asked):
            if ended and limits.iou == iou:
                mine = values[owner == i, 1:]
                found.append(mine[np.argsort(-mine[:, 4], kind="stable")[:limit]])
                continue
            every = self._every(output) if every is None else every
            found.append(boxes.nms(every[i], self._head, confidence, limits.iou, limit))
        return found

    def _every(self, output: dict[str, NDArray[Any]]) -> NDArray[Any]:
        """All boxes, decoded here where the model gives raw maps."""
        if "boxes" in output:
            return output["boxes"]
        return self._head.boxes([output[name] for name in self._head.raw])


class DetectionHandler(BoxesHandler[boxes.Boxes]):
    """Answers boxes and nothing else."""

    def result(
        self,
        found: boxes.Boxes,
        item: Item,
        place: Letterbox,
        beside: Mapping[str, NDArray[Any]],
    ) -> boxes.Boxes:
        return found

    def rows(self, result: boxes.Boxes) -> boxes.Boxes:
        return result


def _peeked(data: bytes) -> Item | bytes:
    """An item that the GPU decodes, or the bytes of one that it does not."""
    told = images.peek(data)
    return Item(told.height, told.width, None, data) if told.plain_jpeg else data
