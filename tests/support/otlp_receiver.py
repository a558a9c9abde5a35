"""The end of OTLP over HTTP: takes spans and writes each as a line of JSON.

Run in an environment with opentelemetry-proto: ``otlp_receiver.py PORT FILE``.
"""

from __future__ import annotations

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def main(port: int, out: Path) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            with out.open("a") as file:
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        for span in scope.spans:
                            told = {**record(span), "resource": values(resource.resource)}
                            file.write(json.dumps({**told, "path": self.path}) + "\n")
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    HTTPServer(("127.0.0.1", port), Receiver).serve_forever()


def record(span: Any) -> dict[str, Any]:
    return {
        "trace": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "name": span.name,
        "kind": span.kind,
        "begin": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "failed": span.status.code == 2,
        **values(span),
    }


def values(holder: Any) -> dict[str, Any]:
    """Attributes by name."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in holder.attributes}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
