"""What the protocol says of a model, and its requests as requests to the model's handler."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.hosting import parameters as as_headers
from deploy.kserve.tensors import BYTES, DTYPES, Bytes, Mistake, Spec, Tensor, packed
from deploy.torchserve.guard.http import PARAMETERS, READER, Refusal, unread
from handlers.passport import Passport, TensorSpec

BODY = Spec("BODY", BYTES, (-1, 1))
ANSWERED = (
    Spec("ANSWER", BYTES, (-1, 1)),
    Spec("STATUS", "INT32", (-1, 1)),
    Spec("HEADERS", BYTES, (-1, 1)),
)
"""Of a model that takes files: a file in each row; its answer, HTTP status, and headers as JSON."""

MOST_ITEMS = 1024
PASSED = ("authorization", "traceparent", "tracestate")
"""Headers of a request that each of its items has."""
NPZ = "application/x-npz"
TENSORS = "tensors"


@dataclass(frozen=True)
class Reply:
    """A handler's answer to one request; the headers' names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "application/octet-stream")

    @property
    def reason(self) -> str:
        """Why it was refused, in one line."""
        try:
            told = json.loads(self.body)
            return f"{self.status} {told['type']}: {told['message']}"
        except (ValueError, LookupError, TypeError):
            return f"{self.status}: {len(self.body):,} bytes that say no reason"


Ask = Callable[[str, Bytes, Mapping[str, str]], Awaitable[Reply]]
"""Asks a model's handler: name, body, headers."""


@dataclass(frozen=True)
class Model:
    """A model as it is served.

    Attributes:
        raw: it takes tensors, and no files.
        settings: its archive reads a request's own settings.
    """

    name: str
    version: str
    raw: bool
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    settings: bool = True

    @classmethod
    def of(cls, name: str, passport: Passport) -> Model:
        """The model of an archive."""
        inputs, outputs = map(_specs, (passport.inputs, passport.outputs))
        known = all(spec.datatype in DTYPES for spec in (*inputs, *outputs))
        settings = READER in passport.files
        if passport.task != TENSORS or not known:
            return cls(name, passport.version, False, (BODY,), ANSWERED, settings)
        return cls(name, passport.version, True, inputs, outputs, settings)

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Model:
        """From what ``dataclasses.asdict`` and JSON made of one."""
        specs = {
            key: tuple(Spec(s["name"], s["datatype"], tuple(s["shape"])) for s in record[key])
            for key in ("inputs", "outputs")
        }
        return cls(
            record["name"], record["version"], record["raw"], **specs, settings=record["settings"]
        )

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": "torchserve-repack",
            "inputs": [spec.record for spec in self.inputs],
            "outputs": [spec.record for spec in self.outputs],
        }

    async def infer(
        self,
        tensors: Sequence[Tensor],
        parameters: Mapping[str, Any],
        passed: Mapping[str, str],
        ask: Ask,
    ) -> list[Tensor]:
        """The output tensors.

        Args:
            passed: headers of every item (``passed_on``).

        Raises:
            Mistake: inputs or parameters that the model does not take, or that its handler refused.
        """
        headers = dict(passed)
        given = self._by_name(tensors)
        if self.raw:
            if parameters:
                raise Mistake(f"parameters {', '.join(parameters)} came; expected none")
            body, more = _npz(given), {"accept": NPZ, "content-type": "application/octet-stream"}
            reply = await ask(self.name, body, {**headers, **more})
            if reply.status != 200:
                raise Mistake(reply.reason, reply.status, None)
            return _of_npz(reply.body)
        (tensor,) = given
        if tensor.shape[0] not in range(1, MOST_ITEMS + 1):
            raise Mistake(f"{tensor.shape[0]} items came; expected 1 to {MOST_ITEMS}")
        # What JSON carries of a file is base64, as in a body of text.
        kind = "text/plain" if tensor.is_text else "application/octet-stream"
        try:
            told = as_headers.headers(parameters)
            if PARAMETERS.decode() in told and not self.settings:
                raise unread(self.name)
            headers |= {"content-type": kind, **told}
        except Refusal as e:
            raise Mistake(str(e), e.status, e.reason) from None
        replies = await together([ask(self.name, e, headers) for e in tensor.elements()])
        if all(reply.status != 200 for reply in replies):
            first = replies[0]
            many = f"all {len(replies)} items were refused, the first with "
            raise Mistake((many if replies[1:] else "") + first.reason, first.status, None)
        return _answers(replies)

    def _by_name(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors in the order of the inputs, each of its input's type and shape."""
        names = [tensor.name for tensor in tensors]
        expected = [spec.name for spec in self.inputs]
        if sorted(names) != sorted(expected):
            raise Mistake(
                f"inputs {', '.join(names) or 'none'} came; expected {', '.join(expected)}"
            )
        found = []
        for spec in self.inputs:
            tensor = tensors[names.index(spec.name)]
            spec.require(tensor.datatype, tensor.shape)
            if tensor.datatype != BYTES:
                tensor.require_size()
            found.append(tensor)
        return found


def _specs(given: Sequence[TensorSpec]) -> tuple[Spec, ...]:
    return tuple(
        Spec(
            spec.name,
            spec.dtype.upper().replace("FLOAT", "FP"),
            tuple(n if isinstance(n, int) else -1 for n in spec.shape),
        )
        for spec in given
    )


def passed_on(headers: Mapping[str, Any]) -> dict[str, str]:
    """Of a request's headers, in small letters, those that each of its items has."""
    return {name: str(headers[name]) for name in PASSED if headers.get(name)}


async def together(asked: Sequence[Awaitable[Reply]]) -> list[Reply]:
    """All replies, in their order; where one cannot be had, nobody waits for the others."""
    tasks = [asyncio.ensure_future(each) for each in asked]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _answers(replies: Sequence[Reply]) -> list[Tensor]:
    columns = (
        packed(r.body for r in replies),
        struct.pack(f"<{len(replies)}i", *(r.status for r in replies)),
        packed(json.dumps(dict(r.headers)).encode() for r in replies),
    )
    shape = (len(replies), 1)
    return [
        Tensor(spec.name, spec.datatype, shape, data)
        for spec, data in zip(ANSWERED, columns, strict=True)
    ]


def _npz(tensors: Sequence[Tensor]) -> bytes:
    import numpy as np

    from handlers.tensors import npz

    return npz(
        {t.name: np.frombuffer(t.data, DTYPES[t.datatype]).reshape(t.shape) for t in tensors}
    )


def _of_npz(data: bytes) -> list[Tensor]:
    import numpy as np

    found = []
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for name in arrays.files:
            value = arrays[name]
            datatype = next(k for k, v in DTYPES.items() if np.dtype(v) == value.dtype)
            packed_ = np.ascontiguousarray(value, DTYPES[datatype]).tobytes()
            found.append(Tensor(name, datatype, tuple(value.shape), packed_))
    return found
