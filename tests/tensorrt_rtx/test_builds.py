"""The models of the examples, built by today's TensorRT through the code for TensorRT 10 and 11.

TensorRT for RTX 1.7 has the API of TensorRT 11 and needs no GPU to build. To deserialise an engine
it wants a driver and a GPU of compute capability 8.0, 8.6, 8.9 or 12.x. So nothing is run here, and
its inspector, which reads deserialised engines, is not asked: whether what it says of layers suits
``repack.backends.precision`` is not known. What can be read without a GPU is the text of the
compiled program in the engine's file: the type of each weight, and the shapes of the inputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handlers.engines.build import build
from tests.support import exported_detectors
from tests.support.rtx_models import (
    MODELS,
    PRECISIONS,
    SHAPES,
    Network,
    axes,
    exported,
    weights,
)


@pytest.fixture(scope="module", params=MODELS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    return Network.make(request.param, tmp_path_factory.mktemp("network"))


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_has_the_types_and_the_shapes_that_were_asked_for(
    network: Network, precision: str, shapes: str, rtx: Any
) -> None:
    job = network.job(precision, shapes)
    engine = build(job).engine
    found, wanted = weights(engine), network.weights(precision)
    total = sum(wanted.values())
    for kind in found | wanted:
        # Channels are filled up to fours: 9 % of the smallest network, and nothing of the others.
        assert abs(found[kind] - wanted[kind]) <= 0.001 * total + 512, (kind, found, wanted)
    for name, limits in job.profiles.items():
        ranges = zip(*limits, strict=True)
        assert axes(engine, name) == [low if low == high else None for low, _, high in ranges]


BEHIND = [
    *(
        (layout, "f16")
        for layout in (*exported_detectors.LAYOUTS, "points", "masks", "angle", "anchored-masks")
    ),
    *((layout, "int8") for layout in ("anchor-free", "detr", "masks")),
]


@pytest.mark.parametrize(("layout", "precision"), BEHIND)
def test_what_stands_behind_a_detectors_graph_is_built(
    layout: str, precision: str, tmp_path: Path, rtx: Any
) -> None:
    network = Network.of(exported(layout, tmp_path), tmp_path)
    assert len(build(network.job(precision, "fixed")).engine) > 1000
