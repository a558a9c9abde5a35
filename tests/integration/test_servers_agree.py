"""One archive, every server: the same bytes as its own handler in this process gives.

The shipped detector, a ResNet-50, a small classifier and the vessels net, on TorchServe (its
predictions, and v2 by HTTP and gRPC), Triton (v2) and Ray Serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from deploy.hosting.model import Model, Request
from handlers import images
from repack import archive as archives
from tests.support import classifiers, made
from tests.support.hosts import HOSTS, Ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PICTURES = [path.read_bytes() for path in sorted(made.PICTURES.glob("*.jpg"))[:4]]
JSON, GZIP = "application/json", "application/gzip"


@pytest.fixture(scope="module")
def packed() -> Mapping[str, Path]:
    return {
        "fd1": made.detector(),
        "kinds": classifiers.archive(),
        "resnet50": classifiers.resnet50(),
        "vessels": made.vessels(),
    }


@pytest.fixture(scope="module")
def local(
    packed: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Model]:
    found = {}
    for name, path in packed.items():
        folder = tmp_path_factory.mktemp("local")
        archives.unpack(path, folder)
        found[name] = Model(folder, threads=1)
    return found


@pytest.fixture(scope="module", params=HOSTS)
def host(
    request: pytest.FixtureRequest,
    packed: Mapping[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Ask]]:
    with HOSTS[request.param](packed, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def wanted(local: Mapping[str, Model], model: str, body: bytes, accept: str) -> bytes:
    (answer,) = local[model].answer([Request(body, {"accept": accept})])
    assert (answer.status, answer.media_type) == (200, accept)
    return answer.body


@pytest.mark.parametrize("model", ["fd1", "kinds", "resnet50"])
def test_pictures(host: Mapping[str, Ask], local: Mapping[str, Model], model: str) -> None:
    for picture in PICTURES:
        want = wanted(local, model, picture, JSON)
        assert {way: ask(model, picture, JSON) for way, ask in host.items()} == dict.fromkeys(
            host, want
        )


def test_a_drawn_picture(host: Mapping[str, Ask], local: Mapping[str, Model]) -> None:
    """Lines and JPEG are OpenCV's, whose versions differ by single values."""
    want = wanted(local, "fd1", PICTURES[0], "image/jpeg")
    pixels = images.decode(want).astype(int)
    assert np.abs(pixels - images.decode(PICTURES[0])).max() > 100
    for way, ask in host.items():
        drawn = images.decode(ask("fd1", PICTURES[0], "image/jpeg"))
        assert np.abs(pixels - drawn).mean() < 3, way


def test_a_mask(host: Mapping[str, Ask], local: Mapping[str, Model], tmp_path: Path) -> None:
    """Voxel for voxel."""
    scan = made.vessels_scan(tmp_path).read_bytes()
    want = wanted(local, "vessels", scan, GZIP)
    for way, ask in host.items():
        assert ask("vessels", scan, GZIP) == want, way
