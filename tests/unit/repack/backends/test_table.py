"""The table of backends: complete, and light enough to be read before anything is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.torchserve.settings import ROOT
from handlers.errors import KitError
from handlers.runtimes import RUNTIMES
from repack.backends import BACKENDS, PRECISIONS, TRT, named, title
from repack.backends.base import Backend
from repack.tolerances import PROVEN, TOLERANCES

LIGHT = """
import sys
import {module}
heavy = "torch torchvision onnx onnxruntime openvino nncf tensorrt torch2trt cv2 scipy".split()
print([name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_says_all_of_itself(name: str) -> None:
    backend = BACKENDS[name]
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backend.title
    assert backend.title == title(name)
    assert backend.packages
    assert backend.device in ("cpu", "gpu")
    assert backend.precisions
    assert set(backend.precisions) <= set(PRECISIONS)
    assert set(backend.auto) <= set(backend.precisions)
    assert (type(backend).__doc__ or "").strip()
    assert name in RUNTIMES or ":" in backend.runtime
    assert not backend.portable or ("f32" in backend.precisions and backend.device == "cpu")


def test_the_tables_fit_together() -> None:
    assert set(RUNTIMES) == {b.name for b in BACKENDS.values() if not b.runtime}
    assert any(b.portable for b in BACKENDS.values())
    assert set(PRECISIONS) == {p for b in BACKENDS.values() for p in b.precisions}
    assert set(PRECISIONS) == set(TOLERANCES)
    assert set(PRECISIONS) == {*PROVEN, "best"}
    assert {named(name).device for name in TRT.values()} == {"cpu", "gpu"}


def test_an_unknown_backend_is_one_line_that_lists_what_there_is() -> None:
    with pytest.raises(KitError) as refused:
        named("magic")
    assert str(refused.value) == f"no backend 'magic'; there is {', '.join(BACKENDS)}"
    assert title("magic") == "magic"


@pytest.mark.parametrize("module", ["repack.backends", "repack.tasks", "repack.cli"])
def test_the_tables_need_no_library(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout == "[]\n"
