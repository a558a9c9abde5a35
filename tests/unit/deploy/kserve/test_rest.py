"""The Open Inference Protocol over HTTP, before a handler of the test's own making."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest

from deploy.kserve import service
from deploy.kserve.messages import SERVICE, messages
from deploy.kserve.models import ANSWERED, BODY, Model, Reply
from deploy.kserve.rest import LENGTH, Asked, Speaker
from deploy.kserve.tensors import Bytes, Mistake, Spec, Tensor, packed
from handlers.tensors import npz
from tests.support.archives import RECORD
from tests.support.servers import free_ports

FILES = Model("fd1", "1.0", False, (BODY,), ANSWERED)
ARRAYS = Model(
    "tiny", "2.1", True, (Spec("x", "FP32", (-1, 3)), Spec("n", "INT64", (1,))),
    (Spec("y", "FP32", (-1, 3)),),
)  # fmt: skip


class Handler:
    """Answers with what it was asked; a body that begins with "bad" is refused."""

    def __init__(self) -> None:
        self.ready: dict[str, bool | None] = {"fd1": True, "tiny": False}
        self.asked: list[tuple[str, bytes, dict[str, str]]] = []

    async def ask(self, name: str, body: Bytes, headers: Mapping[str, str]) -> Reply:
        body = bytes(body)
        self.asked.append((name, body, dict(headers)))
        if body.startswith(b"bad"):
            told = {"code": 415, "type": "UnsupportedFormat", "message": f"{len(body)} bytes"}
            return Reply(415, {"content-type": "application/json"}, json.dumps(told).encode())
        if headers.get("accept") == "application/x-npz":
            return Reply(200, {}, npz({"y": np.arange(6, dtype=np.float32).reshape(2, 3)}))
        kind = {"content-type": "application/json", "x-fallback": "why"}
        return Reply(200, kind, json.dumps({"bytes": len(body)}).encode())


def require_json(data: bytes) -> None:
    if data.count(b"[") > 1000:
        raise Mistake("too much", 413)


def answer(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> Reply:
    return spoken(Handler(), path, body, method, **headers)


def spoken(
    handler: Handler, path: str, body: bytes = b"", method: str = "POST", **headers: str
) -> Reply:
    async def ready(name: str) -> bool | None:
        return handler.ready[name]

    speaker = Speaker({"fd1": FILES, "tiny": ARRAYS}, handler.ask, ready, require_json)
    named = {k.replace("_", "-"): v for k, v in headers.items()}
    return asyncio.run(speaker.answer(Asked(method, path, named, body)))


def binary(head: dict[str, Any], data: bytes = b"") -> tuple[bytes, dict[str, str]]:
    text = json.dumps(head).encode()
    return text + data, {LENGTH.replace("-", "_"): str(len(text))}


def files(*bodies: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    data = packed(bodies)
    entry = {
        "name": "BODY", "datatype": "BYTES", "shape": [len(bodies), 1],
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    return binary({"inputs": [entry], "parameters": {"binary_data_output": True}, **more}, data)


def arrays(**changed: Any) -> dict[str, Any]:
    x = {"name": "x", "datatype": "FP32", "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6.5]]}
    n = {"name": "n", "datatype": "INT64", "shape": [1], "data": [2**60 + 1]}
    return {"inputs": [{**x, **changed}, n]}


def error(reply: Reply) -> tuple[int, str]:
    found = json.loads(reply.body)
    assert set(found) == {"error"}
    assert "\n" not in found["error"]
    return reply.status, found["error"]


def outputs(reply: Reply) -> dict[str, bytes]:
    """The binary outputs of an answer."""
    assert reply.status == 200, reply.body
    size = int(reply.headers[LENGTH])
    at, found = size, {}
    for entry in json.loads(reply.body[:size])["outputs"]:
        end = at + entry["parameters"]["binary_data_size"]
        found[entry["name"]], at = reply.body[at:end], end
    assert at == len(reply.body)
    return found


def test_files_are_asked_one_by_one_and_answered_in_their_rows() -> None:
    handler = Handler()
    body, headers = files(b"\xff\xd8one", b"bad one", b"\0")
    found = outputs(spoken(handler, "/v2/models/fd1/infer", body, authorization="key", **headers))
    assert [entry[:2] for entry in handler.asked] == [
        ("fd1", b"\xff\xd8one"), ("fd1", b"bad one"), ("fd1", b"\0"),
    ]  # fmt: skip
    told = {"authorization": "key", "content-type": "application/octet-stream"}
    assert handler.asked[0][2] == told
    assert np.frombuffer(found["STATUS"], "<i4").tolist() == [200, 415, 200]
    assert found["ANSWER"].startswith(packed([b'{"bytes": 5}']))
    kept = {"content-type": "application/json", "x-fallback": "why"}
    assert found["HEADERS"].startswith(packed([json.dumps(kept).encode()]))


def test_a_file_in_json_is_base64_which_the_handler_reads_as_text() -> None:
    handler = Handler()
    entry = {"name": "BODY", "datatype": "BYTES", "shape": [1, 1], "data": ["aGk="]}
    asked = {"inputs": [entry], "id": "7", "outputs": [{"name": "ANSWER"}]}
    reply = spoken(handler, "/v2/models/fd1/versions/1.0/infer", json.dumps(asked).encode())
    assert handler.asked[0][1:] == (b"aGk=", {"content-type": "text/plain"})
    told = json.loads(reply.body)
    assert (told["id"], told["model_name"], told["model_version"]) == ("7", "fd1", "1.0")
    (output,) = told["outputs"]
    assert output["data"] == ['{"bytes": 4}']


def test_tensors_reach_the_handler_exactly() -> None:
    handler = Handler()
    reply = spoken(handler, "/v2/models/tiny/infer", json.dumps(arrays()).encode())
    import io

    given = np.load(io.BytesIO(handler.asked[0][1]))
    assert given["x"].dtype == np.float32
    assert given["x"].tolist() == [[1, 2, 3], [4, 5, 6.5]]
    assert given["n"].tolist() == [2**60 + 1]
    (y,) = json.loads(reply.body)["outputs"]
    assert (y["datatype"], y["shape"], y["data"]) == ("FP32", [2, 3], [0, 1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"datatype": "FP64"}, "FP64 [2, 3] came; expected FP32 [-1, 3]"),
        ({"shape": [3, 2]}, "FP32 [3, 2] came; expected FP32 [-1, 3]"),
        ({"shape": [6]}, "FP32 [6] came"),
        ({"shape": [1, 3]}, "24 bytes came; expected 12"),
        ({"shape": [-1, 3]}, "expected a list of lengths"),
        ({"shape": "2"}, "expected a list of lengths"),
        ({"datatype": "FLOAT"}, "datatype 'FLOAT' came"),
        ({"name": "z"}, "inputs z, n came; expected x, n"),
        ({"data": ["a"]}, "no values of FP32"),
        ({"parameters": {"binary_data_size": 24}}, "binary_data_size 24 came with 0 bytes"),
        ({"parameters": [1]}, "parameters: list came"),
    ],
)
def test_a_wrong_tensor_is_a_400_that_says_what_was_expected(
    changed: dict[str, Any], words: str
) -> None:
    status, said = error(answer("/v2/models/tiny/infer", json.dumps(arrays(**changed)).encode()))
    assert status == 400
    assert words in said


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x09\0\0\0ab", "an element is longer than"),
        (b"\x01\0", "an element is longer than"),
        (packed([b"a", b"b"]), "more than 1 elements came; expected 1"),
        (b"", "0 elements came; expected 1"),
    ],
)
def test_bytes_that_do_not_fit_their_shape(data: bytes, words: str) -> None:
    entry = {
        "name": "BODY", "datatype": "BYTES", "shape": [1, 1],
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    body, headers = binary({"inputs": [entry]}, data)
    status, said = error(answer("/v2/models/fd1/infer", body, **headers))
    assert (status, words in said) == (400, True), said


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/fd1/infer", b"{", 400, "no JSON"),
        ("/v2/models/fd1/infer", b"[]", 400, "list came; expected a JSON object"),
        ("/v2/models/fd1/infer", b"{}", 400, "inputs"),
        ("/v2/models/fd1/infer", b"[" * 1001, 413, "too much"),
        ("/v2/models/nope/infer", b"{}", 404, "no model 'nope'; served: fd1, tiny"),
        ("/v2/models/fd1/versions/9/infer", b"{}", 404, "no version '9'"),
        ("/v2/models/fd1", b"", 405, "expected GET"),
        ("/v2/repository/index", b"", 404, "no /v2/repository/index"),
        ("/v1/models/fd1:predict", b'{"instances": []}', 400, "instances"),
        ("/v1/models/fd1:predict", b'{"instances": ["aGk=", "bad"]}', 200, "predictions"),
    ],
)
def test_what_is_wrong_has_its_own_status(path: str, body: bytes, status: int, words: str) -> None:
    reply = answer(path, body)
    assert reply.status == status
    assert words in reply.body.decode()


def test_more_files_than_a_request_may_hold() -> None:
    body, headers = files(*[b""] * 1025)
    assert (
        "1025 items came; expected 1 to 1024"
        in error(answer("/v2/models/fd1/infer", body, **headers))[1]
    )


def test_more_instances_than_a_request_may_hold() -> None:
    asked = json.dumps({"instances": ["aGk="] * 1025}).encode()
    assert "1 to 1024" in error(answer("/v1/models/fd1:predict", asked))[1]


def test_millions_of_elements_for_a_shape_of_one_are_not_taken_apart() -> None:
    data = bytes(4 << 22)
    entry = {
        "name": "BODY", "datatype": "BYTES", "shape": [1, 1],
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    body, headers = binary({"inputs": [entry]}, data)
    began = time.monotonic()
    status, said = error(answer("/v2/models/fd1/infer", body, **headers))
    assert (status, "more than 1 elements" in said) == (400, True)
    assert time.monotonic() - began < 1


def test_a_request_whose_items_are_all_refused_is_an_error_with_their_status() -> None:
    body, headers = files(b"bad 1", b"bad")
    assert error(answer("/v2/models/fd1/infer", body, **headers)) == (
        415, "all 2 items were refused, the first with 415 UnsupportedFormat: 5 bytes",
    )  # fmt: skip


def test_other_parameters_are_settings_which_the_handler_takes_or_refuses() -> None:
    handler = Handler()
    asked = {"conf": 0.5, "classes": "a&b=c", "accept": "x/y", "binary_data_output": True}
    body, headers = files(b"a", parameters=asked)
    outputs(spoken(handler, "/v2/models/fd1/infer", body, **headers))
    ((_, _, told),) = handler.asked
    assert (told["accept"], told["x-parameters"]) == ("x/y", "conf=0.5&classes=a%26b%3Dc")


def test_settings_for_an_archive_that_does_not_read_them_are_refused() -> None:
    older = replace(FILES, settings=False)
    assert Model.read(asdict(older)) == older
    assert not Model.of("m", RECORD).settings
    assert Model.of("m", replace(RECORD, files={"handlers/parameters.py": "a"})).settings
    handler, given = Handler(), [Tensor("BODY", "BYTES", (1, 1), packed([b"a"]))]
    with pytest.raises(Mistake, match="settings came, which the archive of fd1 does not read"):
        asyncio.run(older.infer(given, {"conf": 0.5}, {}, handler.ask))
    assert handler.asked == []
    asyncio.run(older.infer(given, {"accept": "x/y"}, {}, handler.ask))
    asyncio.run(FILES.infer(given, {"conf": 0.5}, {}, handler.ask))
    assert len(handler.asked) == 2


@pytest.mark.parametrize(
    "parameters", [{"threshold": [1]}, {"accept": 1}, {"accept": "a\r\nx: b"}, {"conf": None}]
)
def test_a_parameter_that_can_be_no_header_is_refused(parameters: dict[str, Any]) -> None:
    handler = Handler()
    body, headers = files(b"a", parameters=parameters)
    status, said = error(spoken(handler, "/v2/models/fd1/infer", body, **headers))
    assert (status, handler.asked) == (400, [])
    assert f"parameters {next(iter(parameters))} came" in said


def test_an_output_that_there_is_not() -> None:
    body, headers = files(b"a", outputs=[{"name": "BOXES"}])
    assert (
        "output 'BOXES' was asked for; there is ANSWER"
        in error(answer("/v2/models/fd1/infer", body, **headers))[1]
    )


def test_a_compressed_request() -> None:
    body = gzip.compress(json.dumps(arrays()).encode())
    assert answer("/v2/models/tiny/infer", body, content_encoding="gzip").status == 200
    assert error(answer("/v2/models/tiny/infer", body, content_encoding="br"))[0] == 415


def test_readiness_is_the_models_own() -> None:
    for path, status in (
        ("/v2/health/live", 200), ("/v2/health/ready", 503), ("/v2/models/fd1/ready", 200),
        ("/v2/models/tiny/ready", 503), ("/v1/models/tiny", 503), ("/v2/models/none/ready", 404),
    ):  # fmt: skip
        assert answer(path, method="GET").status == status


def test_a_model_that_was_given_up_keeps_no_other_from_its_requests() -> None:
    handler = Handler()
    handler.ready["tiny"] = None
    assert spoken(handler, "/v2/health/ready", method="GET").status == 200
    assert spoken(handler, "/v2/models/tiny/ready", method="GET").status == 503
    handler.ready["fd1"] = None
    assert spoken(handler, "/v2/health/ready", method="GET").status == 503


def test_json_of_very_many_values_is_refused_before_it_is_read() -> None:
    asked = arrays(data=[0] * (1 << 21))
    status, said = error(answer("/v2/models/tiny/infer", json.dumps(asked).encode()))
    assert (status, "send them as binary data" in said) == (413, True)


def test_lists_nested_deep_beside_long_ones_take_no_longer() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    asked = arrays(shape=[200_000, 3], data=[deep, *[1] * 600_000])
    began = time.monotonic()
    assert answer("/v2/models/tiny/infer", json.dumps(asked).encode()).status == 200
    assert time.monotonic() - began < 5


def test_metadata() -> None:
    told = json.loads(answer("/v2/models/tiny/", method="GET").body)
    assert told["versions"] == ["2.1"]
    assert told["inputs"][0] == {"name": "x", "datatype": "FP32", "shape": [-1, 3]}


def test_v1_asks_for_each_instance_and_keeps_their_order() -> None:
    handler = Handler()
    image = {"b64": base64.b64encode(b"abc").decode()}
    asked = json.dumps({"instances": [image, "aGk="]}).encode()
    told = json.loads(spoken(handler, "/v1/models/fd1:predict", asked).body)
    sizes = [len(body) for _, body, _ in handler.asked]
    assert told == {"predictions": [{"bytes": n} for n in sizes]}
    assert [json.loads(body) for _, body, _ in handler.asked] == [image, {"data": "aGk="}]


def test_v1_of_a_model_of_tensors_is_its_handlers_own() -> None:
    handler = Handler()
    spoken(handler, "/v1/models/tiny:predict", b'{"instances": [1]}')
    assert handler.asked == [
        ("tiny", b'{"instances": [1]}', {"content-type": "application/json"})
    ]  # fmt: skip


def test_what_is_refused_by_grpc_is_told_too() -> None:
    """A real server and a real client of the protocol."""
    told: list[tuple[int, str | None]] = []

    async def ready(name: str) -> bool:
        return True

    async def scene() -> None:
        handler = Handler()
        speaker = Speaker({"fd1": FILES}, handler.ask, ready, require_json,
                          lambda e: told.append((e.status, e.reason)))  # fmt: skip
        (port, _) = free_ports()
        server = await service.start(
            speaker, "127.0.0.1", port, False, 1 << 20, lambda size: nullcontext()
        )
        known = messages()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(
                f"/{SERVICE}/ModelMetadata",
                known["ModelMetadataRequest"].SerializeToString,
                known["ModelMetadataResponse"].FromString,
            )
            assert (await ask(known["ModelMetadataRequest"](name="fd1"))).name == "fd1"
            assert told == []
            with pytest.raises(grpc.aio.AioRpcError, match="none"):
                await ask(known["ModelMetadataRequest"](name="none"))
        await server.stop(None)

    asyncio.run(scene())
    assert told == [(404, "")]
