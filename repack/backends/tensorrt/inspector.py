"""What TensorRT's own inspector says of an engine's layers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from repack.backends.element_types import NAMES


def layers(runtime: Any) -> Iterator[tuple[set[str], str, int]]:
    """From TensorRT's own inspector, of each convolution and product of the fused graph: the names
    of its parts, the type of its weights, its multiplications.

    Those inside a block that it compiled as a whole ("Myelin") are not told.
    """
    kind = runtime.trt.LayerInformationFormat.JSON
    inspector = runtime.engines[-1].create_engine_inspector()
    # Layer names hold control characters, which strict JSON does not allow.
    told = json.loads(inspector.get_engine_information(kind), strict=False)
    for layer in told["Layers"]:
        weights = layer.get("Weights") if isinstance(layer, dict) else None
        if not isinstance(weights, dict) or not weights.get("Count"):
            continue
        kind_of = str(weights["Type"])
        precision = NAMES.get(kind_of, kind_of)
        deconvolution = "Deconvolution" in layer.get("LayerType", "")
        tensor = layer["Inputs" if deconvolution else "Outputs"][0]
        places = math.prod([tensor["Dimensions"][0], *tensor["Dimensions"][2:]])
        parts = set(re.split(r" \+ | \|\| ", layer.get("Name", "")))
        yield parts, precision, places * weights["Count"]
