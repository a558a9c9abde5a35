"""The network in LitServe."""

from __future__ import annotations

import os
from typing import Any

import cv2
import litserve
import numpy as np

from benchmarks.peers.network import Network


class Detector(litserve.LitAPI):  # type: ignore[misc]
    """A picture in a form's field ``request``; boxes as JSON."""

    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request):  # type: ignore[no-untyped-def] # a type would be a schema
        data = np.frombuffer(request["request"].file.read(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    def predict(self, picture: Any) -> Any:
        return self.network.boxes(picture)

    def encode_response(self, output: Any) -> Any:
        return {"detections": output}


if __name__ == "__main__":
    server = litserve.LitServer(Detector(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
