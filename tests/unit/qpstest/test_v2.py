"""Servers of the Open Inference Protocol: fakes that answer as KServe and Triton do."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import grpc  # type: ignore[import-untyped]
import numpy as np
import pytest

from deploy.kserve.messages import messages
from handlers.errors import KitError
from qpstest import servers
from qpstest.http_api import HttpSession, HttpTarget
from qpstest.options import Options, parse
from qpstest.v2 import TritonWatch
from qpstest.v2_grpc import V2GrpcTarget
from qpstest.v2_tensor import Tensor

ANSWER = b'{"detections": []}'


class Fake(BaseHTTPRequestHandler):
    """One model, ``fd1``; ``Triton`` has the binary extension and statistics."""

    protocol_version = "HTTP/1.1"
    binary = False
    datatype = "BYTES"
    shape = [-1, 1]  # noqa: RUF012
    seen: ClassVar[list[bytes]] = []
    inferences = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        pages: dict[str, dict[str, Any]] = {
            "/v2": {"name": "fake", "extensions": ["binary_tensor_data"] * self.binary},
            "/v2/models/fd1": {
                "name": "fd1",
                "inputs": [{"name": "raw", "datatype": self.datatype, "shape": self.shape}],
            },
            "/v2/models/fd1/stats": {"model_stats": [stats(type(self).inferences)]},
        }
        found = pages.get(self.path)
        self.answer(200 if found else 404, json.dumps(found or {"error": "no"}).encode())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).inferences += 1
        length = self.headers.get("Inference-Header-Content-Length")
        head = json.loads(body[: int(length)] if length else body)
        (entry,) = head["inputs"]
        assert entry["name"] == "raw"
        if not length:
            type(self).seen.append(json.dumps(entry["data"]).encode())
            out: dict[str, Any] = {"outputs": [{"name": "out", "datatype": "BYTES", "shape": [1],
                                "data": [ANSWER.decode()]}]}  # fmt: skip
            self.answer(200, json.dumps(out).encode(), Content_Type="application/json")
            return
        type(self).seen.append(body[int(length) :])
        out = {"outputs": [{"name": "out", "datatype": "BYTES", "shape": [1],
                            "parameters": {"binary_data_size": len(ANSWER) + 4}}]}  # fmt: skip
        text = json.dumps(out).encode()
        self.answer(
            200,
            text + len(ANSWER).to_bytes(4, "little") + ANSWER,
            Inference_Header_Content_Length=str(len(text)),
        )


def stats(count: int) -> dict[str, Any]:
    """2 ms in the queue, 1 of input, 10 of inference, 0.5 of output; two requests a batch."""
    ns = {"success": 14e6, "queue": 2e6, "compute_input": 1e6, "compute_infer": 10e6,
          "compute_output": 0.5e6, "fail": 0.0}  # fmt: skip
    return {
        "inference_count": count,
        "execution_count": count // 2,
        "inference_stats": {k: {"count": count, "ns": v * count} for k, v in ns.items()},
    }


@contextmanager
def fake(**fields: Any) -> Iterator[tuple[str, type[Fake]]]:
    kind = type("Told", (Fake,), {"seen": [], "inferences": 0, **fields})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", kind
        server.shutdown()
        thread.join()


def options(url: str, kind: str, *more: str) -> Options:
    return parse(["--server", kind, "--url", url, *more])


def session_of(kind: str, o: Options, body: bytes) -> HttpSession:
    (target,) = servers.KINDS[kind].setup(o, [body]).targets
    assert isinstance(target, HttpTarget)
    return HttpSession(target)


@pytest.mark.parametrize(("kind", "binary"), [("kserve", False), ("triton", True)])
def test_a_file_goes_in_and_the_models_own_answer_comes_out(kind: str, binary: bool) -> None:
    with fake(binary=binary) as (url, server):
        o = options(url, kind)
        session = session_of(kind, o, b"picture")
        reply = session.call(0)
        session.close()
        sent = server.seen[-1]
    assert (reply.kind, reply.message, reply.answer) == ("", "", ANSWER)
    if binary:
        assert sent == b"\x07\0\0\0picture"
    else:
        assert json.loads(sent) == [base64.b64encode(b"picture").decode()]


def test_an_answer_without_outputs_is_wrong() -> None:
    def error(self: Fake) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b'{"error": "oops"}')

    with fake(do_POST=error) as (url, _):
        session = session_of("kserve", options(url, "kserve"), b"x")
        reply = session.call(0)
        session.close()
    assert reply.kind == "wrong_answer"
    assert "no v2 answer with outputs" in reply.message


def test_arrays_have_to_fit_the_models_input() -> None:
    def npy(array: np.ndarray[Any, Any]) -> bytes:
        file = io.BytesIO()
        np.save(file, array)
        return file.getvalue()

    tensor = Tensor("x", "FP32", (-1, 3))
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tensor.pack(npy(values)) == ([2, 3], values.tobytes())
    with pytest.raises(KitError, match=r"takes FP32 \[-1, 3\]: a .npy file was expected"):
        tensor.pack(b"picture")
    with pytest.raises(KitError, match=r"holds float64 \[2, 3\]"):
        tensor.pack(npy(values.astype(np.float64)))
    with pytest.raises(KitError, match=r"holds float32 \[3, 2\]"):
        tensor.pack(npy(values.reshape(3, 2)))


def test_tritons_statistics_are_the_stages() -> None:
    with fake() as (url, server):
        watch = TritonWatch(options(url, "triton").server, "fd1")
        server.inferences = 10
        watch.begin()
        server.inferences = 30
        seen = watch.end(0, 20)
    assert seen.stages_ms == {"queue": 2.0, "input": 1.0, "infer": 10.0, "output": 0.5}
    assert seen.server_ms == 14.0
    assert seen.counts == {"inferences": 20, "executions": 10, "succeeded": 20}
    assert seen.items_per_batch == 2.0


@pytest.mark.parametrize("kind", ["kserve", "triton", "ray", "url"])
def test_a_server_that_is_no_torchserve_is_not_told_to_start_with_run_sh(kind: str) -> None:
    with pytest.raises(KitError) as caught:
        servers.KINDS[kind].setup(options("http://127.0.0.1:9", kind), [b"x"])
    assert "run.sh" not in str(caught.value)
    assert "nothing answers at http://127.0.0.1:9: is the server (" in str(caught.value)


def test_a_model_that_is_not_there_and_a_server_of_another_kind() -> None:
    with fake() as (url, _), pytest.raises(KitError, match="has no model 'other'"):
        servers.KINDS["triton"].setup(options(url, "triton", "--name", "other"), [b"x"])
    with fake() as (url, _), pytest.raises(KitError, match="answered 404: 200 was expected"):
        servers.KINDS["ray"].setup(options(url, "ray"), [b"x"])


class Inference(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The two methods that the tester calls."""

    def service(self, details: Any) -> Any:
        known = messages()
        if details.method.endswith("/ModelMetadata"):
            request, act = known["ModelMetadataRequest"], self.metadata
        else:
            request, act = known["ModelInferRequest"], self.infer
        return grpc.unary_unary_rpc_method_handler(
            act, request.FromString, lambda answer: answer.SerializeToString()
        )

    def metadata(self, request: Any, context: Any) -> Any:
        if request.name != "fd1":
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        entry = {"name": "raw", "datatype": "BYTES", "shape": [-1, 1]}
        return messages()["ModelMetadataResponse"](inputs=[entry])

    def infer(self, request: Any, context: Any) -> Any:
        assert request.raw_input_contents == [b"\x07\0\0\0picture"]
        assert list(request.inputs[0].shape) == [1, 1]
        raw = len(ANSWER).to_bytes(4, "little") + ANSWER
        entry = {"name": "out", "datatype": "BYTES", "shape": [1]}
        return messages()["ModelInferResponse"](outputs=[entry], raw_output_contents=[raw])


def test_grpc() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Inference()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        grpc_flags = ("--protocol", "grpc", "--grpc-port", str(port))
        o = options("http://127.0.0.1:9", "triton", *grpc_flags)
        (target,) = servers.KINDS["triton"].setup(o, [b"picture"]).targets
        assert isinstance(target, V2GrpcTarget)
        session = target.sessions()()
        reply = session.call(0)
        session.close()
        assert (reply.kind, reply.answer) == ("", ANSWER)
        other = options("http://127.0.0.1:9", "kserve", *grpc_flags, "--name", "other")
        with pytest.raises(KitError, match="has no model 'other': unknown model"):
            servers.KINDS["kserve"].setup(other, [b"picture"])
    finally:
        server.stop(0)
    with pytest.raises(KitError, match=r"no gRPC answer at 127.0.0.1:9: is the server \(KServe\)"):
        servers.KINDS["kserve"].setup(
            options("http://127.0.0.1:9", "kserve", "--protocol", "grpc", "--grpc-port", "9"),
            [b"picture"],
        )
