"""The network in BentoML."""

import bentoml
import numpy as np
from PIL.Image import Image

from benchmarks.peers.network import Network


@bentoml.service
class Detector:
    """A picture in a form's field ``image``; boxes as JSON."""

    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api  # type: ignore[untyped-decorator]
    def detect(self, image: Image) -> dict:  # type: ignore[type-arg]
        return {"detections": self.network.boxes(np.asarray(image.convert("RGB")))}
