"""The protocol over HTTP: v2 with its binary extension, and ``/v1/models/NAME:predict``."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from deploy.kserve.models import MOST_ITEMS, Ask, Model, Reply, passed_on, together
from deploy.kserve.tensors import BYTES, DTYPES, Bytes, Mistake, Tensor, packed
from handlers import payload
from handlers.errors import ItemError

logger = logging.getLogger(__name__)

JSON = "application/json"
LENGTH = "inference-header-content-length"
EXTENSIONS = ("binary_tensor_data",)
NAME, VERSION = "torchserve-repack", "2"
MODEL = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?(?:/(ready|infer))?")
V1 = re.compile(r"/v1/models/([^/:]+)(:predict)?")

Ready = Callable[[str], Awaitable[bool | None]]
"""Whether a model's workers have loaded it; None where it was given up and has none."""

MOST_VALUES = 1 << 21
"""Numbers and texts in one piece of JSON: while it is read or written, everybody waits."""


@dataclass(frozen=True)
class Asked:
    """An HTTP request; the headers' names in small letters."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Speaker:
    """Answers requests of the protocol for the models of a store.

    Args:
        models: by name.
        ask: asks a model's handler.
        ready: whether a model can be asked.
        require_json: raises ``Mistake`` where JSON would take too much memory.
        refused: told of each mistake that is answered.
    """

    models: Mapping[str, Model]
    ask: Ask
    ready: Ready
    require_json: Callable[[bytes], None]
    refused: Callable[[Mistake], None] = lambda mistake: None

    async def answer(self, asked: Asked) -> Reply:
        """The answer, an error too."""
        try:
            return await self._answer(replace(asked, body=_plain(asked)))
        except Mistake as e:
            self.refused(e)
            return _json({"error": str(e)}, e.status)
        except Exception:
            logger.exception("%s %s", asked.method, asked.path)
            self.refused(Mistake("", 500, "fault"))
            return _json({"error": "a fault inside the server: see its log"}, 500)

    async def _answer(self, asked: Asked) -> Reply:
        path = asked.path.rstrip("/")
        if v1 := V1.fullmatch(path):
            return await self._v1(asked, self.model(unquote(v1[1])), bool(v1[2]))
        if v2 := MODEL.fullmatch(path):
            model = self.model(unquote(v2[1]), unquote(v2[2] or ""))
            return await self._v2(asked, model, v2[3] or "")
        found: dict[str, Any] | None = None
        if path == "/v1/models":
            found = {"models": list(self.models)}
        elif path == "/v2":
            found = {"name": NAME, "version": VERSION, "extensions": list(EXTENSIONS)}
        elif path == "/v2/health/live":
            found = {"live": True}
        elif path == "/v2/health/ready":
            ready = await self.all_ready()
            return _get(asked, {"ready": ready}, 200 if ready else 503)
        if found is None:
            raise Mistake(f"no {path} in the Open Inference Protocol", 404)
        return _get(asked, found)

    async def all_ready(self) -> bool:
        """Whether every model that is served can be asked."""
        states = [await self.ready(name) for name in self.models]
        return True in states and False not in states

    async def is_ready(self, model: Model) -> bool:
        return await self.ready(model.name) is True

    def model(self, name: str, version: str = "") -> Model:
        """The served model.

        Raises:
            Mistake: there is none of that name, or of that version.
        """
        model = self.models.get(name)
        if model is None:
            raise Mistake(f"no model {name!r}; served: {', '.join(self.models)}", 404)
        if version not in ("", model.version):
            raise Mistake(f"no version {version!r} of {name}; served: {model.version}", 404)
        return model

    async def _v2(self, asked: Asked, model: Model, what: str) -> Reply:
        if what == "infer":
            return await self._infer(asked, model)
        if what == "ready":
            ready = await self.is_ready(model)
            return _get(asked, {"name": model.name, "ready": ready}, 200 if ready else 503)
        return _get(asked, model.metadata)

    async def _infer(self, asked: Asked, model: Model) -> Reply:
        _require(asked, "POST")
        size = asked.headers.get(LENGTH, str(len(asked.body)))
        if not size.isdecimal() or int(size) > len(asked.body):
            raise Mistake(f"{LENGTH} {size!r} came with {len(asked.body):,} bytes")
        head = self._read(asked.body[: int(size)])
        tensors = _tensors(head, memoryview(asked.body)[int(size) :])
        parameters = _mapping(head, "parameters")
        binary = parameters.pop("binary_data_output", False) is True
        outputs = await model.infer(tensors, parameters, passed_on(asked.headers), self.ask)
        about = {"model_name": model.name, "model_version": model.version}
        if "id" in head:
            about["id"] = str(head["id"])
        return _answer(about, *_chosen(outputs, head, binary))

    async def _v1(self, asked: Asked, model: Model, predict: bool) -> Reply:
        if not predict:
            ready = await self.is_ready(model)
            return _get(asked, {"name": model.name, "ready": ready}, 200 if ready else 503)
        _require(asked, "POST")
        headers = passed_on(asked.headers)
        if model.raw:  # its handler takes and gives lists itself
            return await self.ask(model.name, asked.body, {**headers, "content-type": JSON})
        listed = self._read(asked.body).get("instances")
        if not isinstance(listed, list) or len(listed) not in range(1, MOST_ITEMS + 1):
            raise Mistake(f'expected {{"instances": [...]}}, 1 to {MOST_ITEMS}')
        given = [json.dumps(i if isinstance(i, dict) else {"data": i}).encode() for i in listed]
        headers |= {"content-type": JSON, "accept": JSON}
        replies = await together([self.ask(model.name, body, headers) for body in given])
        for number, reply in enumerate(replies):
            if reply.status != 200:
                raise Mistake(f"instance {number}: {reply.reason}", reply.status, None)
        return _json({"predictions": [json.loads(reply.body) for reply in replies]})

    def _read(self, data: bytes) -> dict[str, Any]:
        if data.count(b",") > MOST_VALUES:
            raise Mistake(
                f"JSON of more than {MOST_VALUES:,} values came; send them as binary data", 413
            )
        self.require_json(data)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as e:
            raise Mistake(f"{len(data):,} bytes that are no JSON ({e})") from None
        if not isinstance(found, dict):
            raise Mistake(f"{type(found).__name__} came; expected a JSON object")
        return found


def _plain(asked: Asked) -> bytes:
    """The body as it was before it was compressed."""
    try:
        row = payload.unpacked({"": asked.body}, asked.headers.get("content-encoding", "").lower())
    except ItemError as e:
        raise Mistake(str(e), e.status) from None
    return bytes(row[""])


def _require(asked: Asked, method: str) -> None:
    if asked.method != method:
        raise Mistake(f"{asked.method} {asked.path} came; expected {method}", 405)


def _get(asked: Asked, found: Mapping[str, Any], status: int = 200) -> Reply:
    _require(asked, "GET")
    return _json(found, status)


def _json(found: Mapping[str, Any], status: int = 200) -> Reply:
    return Reply(status, {"content-type": JSON}, json.dumps(found).encode())


def _mapping(holder: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = holder.get(key) or {}
    if not isinstance(found, dict):
        raise Mistake(f"{key}: {type(found).__name__} came; expected an object")
    return dict(found)


def _tensors(head: Mapping[str, Any], behind: memoryview) -> list[Tensor]:
    """The inputs, of JSON and of what follows it."""
    entries = head.get("inputs")
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise Mistake('expected {"inputs": [{"name", "shape", "datatype", "data"}, ...]}')
    found, at = [], 0
    for entry in entries:
        name, datatype, shape = (entry.get(key) for key in ("name", "datatype", "shape"))
        if not isinstance(name, str) or datatype not in (*DTYPES, BYTES):
            raise Mistake(f"input {name!r}: datatype {datatype!r} came; expected one of v2's")
        if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
            raise Mistake(f"input {name!r}: shape {shape!r} came; expected a list of lengths")
        size = _mapping(entry, "parameters").get("binary_data_size")
        is_text = size is None
        data: Bytes
        if is_text:
            data = _of_json(name, datatype, entry.get("data"))
        elif type(size) is int and 0 <= size <= len(behind) - at:
            data, at = behind[at : at + size], at + size
        else:
            raise Mistake(
                f"input {name!r}: binary_data_size {size!r} came with {len(behind) - at:,} bytes"
            )
        found.append(Tensor(name, datatype, tuple(shape), data, is_text))
    if at != len(behind):
        raise Mistake(f"{len(behind) - at:,} bytes came behind the inputs that were named")
    return found


def _of_json(name: str, datatype: str, data: Any) -> bytes:
    """Packed values of (nested) lists."""
    values: list[Any] = []
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += reversed(value)
        else:
            values.append(value)
    if datatype == BYTES:
        if not all(isinstance(value, str) for value in values):
            raise Mistake(f"input {name!r}: BYTES in JSON are texts; a file is one in base64")
        return packed(value.encode() for value in values)
    import numpy as np

    kind = np.dtype(DTYPES[datatype])
    try:
        if kind.kind in "iu" and not all(type(value) is int for value in values):
            raise ValueError("whole numbers expected")
        return np.array(values, kind).tobytes()
    except (ValueError, TypeError, OverflowError) as e:
        raise Mistake(f"input {name!r}: no values of {datatype} ({e})") from None


def _chosen(
    outputs: Sequence[Tensor], head: Mapping[str, Any], binary: bool
) -> tuple[list[Tensor], list[bool]]:
    """The outputs that were asked for, and which of them are to follow the JSON."""
    asked = head.get("outputs") or [{"name": tensor.name} for tensor in outputs]
    by_name = {tensor.name: tensor for tensor in outputs}
    found, behind = [], []
    for entry in asked if isinstance(asked, list) else [asked]:
        name = entry.get("name") if isinstance(entry, dict) else entry
        if name not in by_name:
            raise Mistake(f"output {name!r} was asked for; there is {', '.join(by_name)}")
        found.append(by_name[name])
        behind.append(_mapping(entry, "parameters").get("binary_data", binary) is True)
    return found, behind


def _answer(about: dict[str, str], outputs: Sequence[Tensor], behind: Sequence[bool]) -> Reply:
    entries, data = [], []
    for tensor, binary in zip(outputs, behind, strict=True):
        entry: dict[str, Any] = {
            "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)
        }  # fmt: skip
        if binary:
            entry["parameters"] = {"binary_data_size": len(tensor.data)}
            data.append(tensor.data)
        else:
            entry["data"] = _listed(tensor)
        entries.append(entry)
    head = json.dumps({**about, "outputs": entries}).encode()
    if not data:
        return Reply(200, {"content-type": JSON}, head)
    kind = {"content-type": "application/octet-stream", LENGTH: str(len(head))}
    return Reply(200, kind, b"".join((head, *data)))


def _listed(tensor: Tensor) -> list[Any]:
    """Values for JSON; of bytes that are no text, their base64."""
    if tensor.datatype != BYTES:
        import numpy as np

        found = np.frombuffer(tensor.data, DTYPES[tensor.datatype])
        if found.size > MOST_VALUES:
            raise Mistake(
                f"output {tensor.name!r} has {found.size:,} values; JSON takes {MOST_VALUES:,}: "
                "ask for binary data",
                413,
            )
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise Mistake(
                f"output {tensor.name!r} holds NaN or infinity, which JSON cannot carry: ask for "
                "binary data",
                422,
            )
        return list(found.tolist())
    return [_text(element) for element in tensor.elements()]


def _text(data: Bytes) -> str:
    try:
        return bytes(data).decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def head_of(reply: Reply) -> bytes:
    """The answer's head, but for its last empty line."""
    fields = {**reply.headers, "content-length": str(len(reply.body))}
    lines = [f"HTTP/1.1 {reply.status} {phrase(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, ""]).encode("latin-1", "replace")


def phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
