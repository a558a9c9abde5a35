"""Traces of a real server, taken by the real protocol's other end."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support import environments, made, otlp_receiver
from tests.support.made import ROOT
from tests.support.servers import free_ports

pytestmark = pytest.mark.slow

REQUIREMENTS = ROOT / "requirements-tracing.txt"
PICTURE = sorted(made.PICTURES.glob("*.jpg"))[0].read_bytes()
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FLAG = "--otel-exporter-otlp-endpoint"


def command(python: Path, room: Path, *flags: str) -> list[str]:
    if not (room / "store").exists():
        (room / "store").mkdir()
        shutil.copy(made.detector(), room / "store" / "fd1.mar")
    port, grpc_port = free_ports()
    return [
        *(str(python), str(ROOT / "deploy" / "torchserve" / "serve.py"), "--foreground"),
        *("--model-store", str(room / "store"), "--run-dir", str(room / "run")),
        *("--workers", "1", "--batch-size", "2", "--max-batch-delay", "300"),
        *("--port", str(port), "--grpc-port", str(grpc_port), *flags),
    ]


@contextmanager
def ended(command: list[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs, and is ended."""
    environ = {**os.environ, **variables}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=60)


class Served:
    def __init__(self, url: str, file: Path):
        self.url, self.file = url, file

    def ask(self, body: bytes, **headers: str) -> requests.Response:
        return requests.post(f"{self.url}/predictions/fd1", body, headers=headers, timeout=60)

    def spans(self, trace: str) -> dict[str, dict[str, Any]]:
        """The trace's spans by name, once its request's own has come."""
        end = time.monotonic() + 20
        while True:
            lines = self.file.read_text().splitlines() if self.file.exists() else []
            mine = {s["name"]: s for s in map(json.loads, lines) if s["trace"] == trace}
            if "predict fd1" in mine:
                return mine
            assert time.monotonic() < end, lines
            time.sleep(0.1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    room = tmp_path_factory.mktemp("traced")
    python = environments.beside("tracing", REQUIREMENTS)
    own, _ = free_ports()
    file = room / "spans.jsonl"
    line = command(python, room, FLAG, f"http://127.0.0.1:{own}")
    with ExitStack() as stack:
        stack.enter_context(ended([str(python), otlp_receiver.__file__, str(own), str(file)]))
        process = stack.enter_context(ended(line, OTEL_BSP_SCHEDULE_DELAY="200"))
        assert process.stdout
        assert any(text.startswith("next") for text in process.stdout)
        yield Served(f"http://127.0.0.1:{line[line.index('--port') + 1]}", file)


def test_a_request_is_a_child_of_its_traceparent_and_its_stages_are_its_children(
    served: Served,
) -> None:
    before = time.time_ns()
    answer = served.ask(PICTURE, traceparent=f"00-{TRACE}-{PARENT}-01")
    after = time.time_ns()
    assert answer.status_code == 200
    assert answer.headers["X-Trace-Id"] == TRACE
    spans = served.spans(TRACE)
    root = spans.pop("predict fd1")
    assert (root["parent"], root["path"], root["failed"]) == (PARENT, "/v1/traces", False)
    assert root["resource"]["service.name"] == "torchserve-repack"
    assert (root["kit.runtime"], root["kit.precision"]) == ("onnxruntime", "f32")
    assert root["http.response.status_code"] == 200
    assert set(spans) == {"wait", "decode", "preprocess", "infer", "postprocess", "encode"}
    assert all(span["parent"] == root["id"] for span in spans.values())
    in_order = [spans[name] for name in ("wait", "decode", "preprocess", "infer", "encode")]
    times = [before, *(t for span in in_order for t in (span["begin"], span["end"])), after]
    assert times == sorted(times)
    assert root["begin"] == spans["wait"]["begin"] and root["end"] >= spans["encode"]["end"]
    # A batch of two waits 300 ms for its second.
    assert spans["wait"]["end"] - spans["wait"]["begin"] > 200e6
    assert spans["infer"]["kit.busy_ms"] == pytest.approx(
        (spans["infer"]["end"] - spans["infer"]["begin"]) / 1e6, abs=1
    )


def test_a_refused_request_has_a_trace_of_its_own(served: Served) -> None:
    answer = served.ask(b"nope", **{"X-Received-Ns": "1" * 19})
    assert answer.status_code == 400
    spans = served.spans(answer.headers["X-Trace-Id"])
    root = spans["predict fd1"]
    assert (root["parent"], root["http.response.status_code"]) == ("", 400)
    assert "infer" not in spans
    assert spans["wait"]["end"] - spans["wait"]["begin"] < 10e9  # the server's own time, not theirs


def test_what_the_caller_does_not_sample_is_not_sent(served: Served) -> None:
    other = TRACE[::-1]
    assert served.ask(PICTURE, traceparent=f"00-{other}-{PARENT}-00").headers["X-Trace-Id"] == other
    served.spans(served.ask(PICTURE).headers["X-Trace-Id"])  # what came later is there
    assert other not in served.file.read_text()


def test_the_open_inference_protocol_hands_it_on(served: Served) -> None:
    body = base64.b64encode(PICTURE).decode()
    tensor = {"name": "BODY", "datatype": "BYTES", "shape": [1, 1], "data": [body]}
    trace = f"{7:032x}"
    answer = requests.post(
        f"{served.url}/v2/models/fd1/infer",
        json={"inputs": [tensor]},
        headers={"traceparent": f"00-{trace}-{PARENT}-01"},
        timeout=60,
    )
    headers = {o["name"]: o["data"] for o in answer.json()["outputs"]}["HEADERS"]
    assert json.loads(headers[0])["x-trace-id"] == trace
    assert served.spans(trace)["wait"]["parent"] == served.spans(trace)["predict fd1"]["id"]


def test_without_the_package_the_server_says_so_and_does_not_start(tmp_path: Path) -> None:
    line = command(Path(sys.executable), tmp_path, FLAG, "http://127.0.0.1:9")
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1
    (said,) = done.stderr.splitlines()
    assert "model fd1 cannot be loaded: opentelemetry-exporter-otlp-proto-http cannot be" in said
    assert "pip install opentelemetry-exporter-otlp-proto-http" in said
