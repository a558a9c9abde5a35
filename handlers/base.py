"""The flow that all handlers share: decode each -> infer the good ones -> encode each."""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Generic, TypeVar

from handlers import parameters, payload, tracing
from handlers.context import Context, LocalContext
from handlers.errors import InternalFault, ItemError, OutOfMemory, TooLarge
from handlers.passport import Passport
from handlers.runtimes import Loaded
from handlers.stages import Stages

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
T = TypeVar("T")

NO_MEMORY = ("out of memory", "can't allocate memory")
"""What the runtimes' errors say when memory runs out, on a GPU and on the CPU."""


class Handler(ABC, Generic[Item, Result]):
    """Answers batches of requests with one loaded model.

    Subclasses say how one payload is decoded, how a list of items is inferred, and how one result
    is encoded. An item that raises ``ItemError`` gets that error's status; the others are answered.

    Args:
        passport: the archive's record.
        loaded: the runtime, activated, and why it is not the accelerated one, if so.
        threads: how many items are decoded side by side.

    Attributes:
        parameters: names of the settings that a request may bring itself.
    """

    parameters: ClassVar[tuple[str, ...]] = ()

    def __init__(self, passport: Passport, loaded: Loaded, threads: int = 1):
        self.passport = passport
        self.runtime = loaded.runtime
        self.artefact = loaded.artefact
        self.fallback = loaded.fallback
        self.stages = Stages()
        tracing.require()
        self._traced_as = {
            "kit.model": passport.name,
            "kit.version": passport.version,
            "kit.task": passport.task,
            "kit.runtime": self.runtime.name,
            "kit.precision": self.runtime.precision,
            "kit.fallback": self.fallback is not None,
        }
        self._pool = ThreadPoolExecutor(threads, "decode") if threads > 1 else None

    def decode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Item | ItemError]:
        """Every request to an item or its error: ``decode`` of each one's bytes, side by side where
        there are threads. For a handler that takes more than one file a request, or all requests
        at once."""
        return self._each(lambda row: self.decode(payload.read(row)), rows)

    @abstractmethod
    def decode(self, data: bytes) -> Item:
        """One request's bytes to an item; raises ``ItemError``."""

    def with_parameters(self, item: Item, given: Mapping[str, str]) -> Item:
        """The item, to be answered as its request's own settings say; some of ``parameters`` by
        name. Raises ``ItemError``."""
        return item

    @abstractmethod
    def infer(self, items: Sequence[Item]) -> Sequence[Result]:
        """As many results as items, in the same order."""

    @abstractmethod
    def encode(self, item: Item, result: Result, accept: str) -> tuple[bytes, str]:
        """One answer's bytes and media type.

        Args:
            accept: the request's Accept header in lower case, or "".
        """

    def headers(self, item: Item, result: Result) -> Mapping[str, str]:
        """Headers of one answer, beside its media type."""
        return {}

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Context) -> list[bytes]:
        """Answers one batch: as many answers as rows, each with its own status."""
        if isinstance(context, LocalContext):
            context.begin()
        self.stages.spans.clear()
        traced = tracing.begun(context, len(rows), self._traced_as)
        with self.stages.measure("decode"):
            decoded = self._decoded(rows, context)
        good = [i for i, item in enumerate(decoded) if not isinstance(item, ItemError)]
        results = self._infer_good([decoded[i] for i in good])
        outcomes: list[Any] = list(decoded)
        for i, result in zip(good, results, strict=True):
            outcomes[i] = result
        with self.stages.measure("encode"):
            answers = [
                self._answer(i, item, outcome, context)
                for i, (item, outcome) in enumerate(zip(decoded, outcomes, strict=True))
            ]
        statuses = [status for _, status in answers]
        if traced:
            traced.end(self.stages.spans, statuses)
        self.stages.count(statuses)
        self.stages.report(context, self.runtime.name, self.fallback is not None)
        return [body for body, _ in answers]

    def describe(self) -> dict[str, Any]:
        """What is loaded, for the management API and for every answer's reader."""
        p = self.passport
        return {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "precision_asked": self.artefact.precision_asked,
            "source": p.source,
            "inputs": [spec.__dict__ for spec in p.inputs],
            "outputs": [spec.__dict__ for spec in p.outputs],
            "labels": list(p.labels),
            "settings": p.settings,
            "parameters": list(self.parameters),
            "gate": p.gate,
        }

    def model_info(self) -> dict[str, str]:
        p = self.passport
        return {"name": p.name, "version": p.version, "task": p.task}

    def runtime_info(self) -> dict[str, str | None]:
        return {
            "name": self.runtime.name,
            "precision": self.runtime.precision,
            "fallback": self.fallback,
        }

    def _each(self, function: Callable[[Any], T], values: Sequence[Any]) -> list[T | ItemError]:
        def guarded(value: Any) -> T | ItemError:
            return guard(lambda: function(value))

        if self._pool and len(values) > 1:
            return list(self._pool.map(guarded, values))
        return [guarded(v) for v in values]

    def _decoded(
        self, rows: Sequence[Mapping[str, Any]], context: Context
    ) -> list[Item | ItemError]:
        """An item or an error for each request: its own settings taken out and compressed bodies
        unpacked first."""
        given: dict[int, Mapping[str, str]] = {}

        def plain(i: int) -> Mapping[str, Any]:
            headers = context.get_all_request_header(i)
            text = value_of(headers, parameters.HEADER)
            row, given[i] = parameters.taken(rows[i], text, self.parameters)
            return payload.unpacked(row, header(headers, "content-encoding"))

        found: list[Any] = self._each(plain, range(len(rows)))
        good = [i for i, row in enumerate(found) if not isinstance(row, ItemError)]
        items = self.decode_batch([found[i] for i in good]) if good else []
        for i, item in zip(good, items, strict=True):
            found[i] = item
            if given[i] and not isinstance(item, ItemError):
                found[i] = guard(lambda i=i: self.with_parameters(found[i], given[i]))  # type: ignore[misc]
        return found

    def _infer_good(self, items: list[Any]) -> list[Result | ItemError]:
        """Infers all items at once; if that fails, each alone: one cannot fail the others."""
        if not items:
            return []
        results = guard(lambda: self._infer_counted(items))
        if not isinstance(results, ItemError):
            return list(results)
        if len(items) == 1:
            return [results]
        singles = [guard(lambda item=item: self._infer_counted([item])) for item in items]  # type: ignore[misc]
        return [s if isinstance(s, ItemError) else s[0] for s in singles]

    def _infer_counted(self, items: list[Any]) -> Sequence[Result]:
        results = self.infer(items)
        if len(results) != len(items):
            raise InternalFault(
                f"{len(results)} results for {len(items)} items: none is given, "
                "since they could be another request's"
            )
        return results

    def _answer(self, i: int, item: Any, outcome: Any, context: Context) -> tuple[bytes, int]:
        if not isinstance(outcome, ItemError):
            accept = header(context.get_all_request_header(i), "accept")
            encoded = guard(lambda: within_limit(self.encode(item, outcome, accept)))
            if not isinstance(encoded, ItemError):
                body, media_type = encoded
                for name, value in self.headers(item, outcome).items():
                    context.set_response_header(i, name, printable(value))
                context.set_response_status(200, idx=i)
                context.set_response_content_type(i, media_type)
                return body, 200
            outcome = encoded
        context.set_response_status(outcome.status, type(outcome).__name__, idx=i)
        context.set_response_content_type(i, "application/json")
        return error_body(outcome), outcome.status


def error_body(error: ItemError) -> bytes:
    """The JSON answer for a refused item, in the shape of TorchServe's own errors."""
    return json.dumps(
        {"code": error.status, "type": type(error).__name__, "message": str(error)}
    ).encode()


def within_limit(answer: tuple[bytes, str]) -> tuple[bytes, str]:
    """The answer, where the server can send it; a larger one would cost the worker.

    Raises:
        TooLarge: it has more bytes than the server was told to let through.
    """
    require_sendable(len(answer[0]))
    return answer


def require_sendable(size: int, more: str = "") -> None:
    """Raises ``TooLarge`` where an answer of so many bytes is more than the server sends."""
    most = os.environ.get(payload.MAX_BODY_VARIABLE, "")
    if most.isdigit() and size > int(most):
        raise TooLarge(
            f"the answer has {size:,} {more}bytes and the server sends at most {int(most):,}: "
            "start it with a larger --max-request-mb, or ask for less"
        )


def printable(value: str) -> str:
    """A header's value: one line of ASCII."""
    return "".join(c if " " <= c <= "~" else "?" for c in value)


def value_of(headers: Mapping[str, Any], name: str) -> str:
    """A request header's value, whatever case its name was sent in; "" if absent."""
    for key, value in headers.items():
        if key.lower() == name and isinstance(value, str):
            return value
    return ""


def header(headers: Mapping[str, Any], name: str) -> str:
    """The same in lower case."""
    return value_of(headers, name).lower()


def threads_per_worker() -> int:
    """How many threads one worker may use: ``OMP_NUM_THREADS``, else every usable core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else len(os.sched_getaffinity(0))


def guard(function: Callable[[], T]) -> T | ItemError:
    """What the function returns, or the error that its item is answered with."""
    try:
        return function()
    except ItemError as e:
        return e
    except MemoryError:
        logger.exception("out of memory")
        return OutOfMemory(
            "the worker ran out of memory for this batch: send fewer or smaller items"
        )
    except Exception as e:
        if any(words in str(e).lower() for words in NO_MEMORY):
            logger.exception("out of memory")
            return OutOfMemory(
                "the device ran out of memory for this batch: send fewer items at once"
            )
        logger.exception("a request failed inside the handler")
        return InternalFault(
            f"a fault inside the handler ({type(e).__name__}): see the worker's log"
        )
