"""The Python backend's model, without a Triton: requests of several rows, each with its status."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.triton import repository
from deploy.triton.config import Serving
from tests.support import made, triton_stub
from tests.support.triton_stub import asked


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    serving = Serving(
        gpu=False, instances=1, threads=1, batch=4, batches=(), delay_us=0, queue=9
    )  # fmt: skip
    folder = repository.write(made.tensors(), tmp_path / "models", "mine", serving, None)
    monkeypatch.setattr(triton_stub.MetricFamily, "page", {})
    return triton_stub.loaded(folder, monkeypatch)


def npy(value: float) -> bytes:
    out = io.BytesIO()
    np.save(out, np.full((1, 3, 8, 8), value, np.float32))
    return out.getvalue()


def test_each_row_gets_its_own_answer_and_each_request_its_own_rows(model: Any) -> None:
    one, bad, other = npy(0.5), b"nope", npy(-2.0)
    first, second = model.execute([asked(one, bad), asked(other)])
    assert first.named("STATUS") == [200, 400]
    assert json.loads(first.named("ANSWER")[1])["code"] == 400
    (alone,) = model.execute([asked(one)])
    assert first.named("ANSWER")[0] == alone.named("ANSWER")[0]
    assert second.named("ANSWER") != alone.named("ANSWER")
    assert json.loads(second.named("HEADERS")[0]) == {"content-type": "application/json"}


def test_a_request_without_one_good_row_is_an_error_and_the_others_are_not(model: Any) -> None:
    refused, good = model.execute([asked(b"nope", b""), asked(npy(1.0))])
    assert refused.error.code == triton_stub.TritonError.INVALID_ARG
    assert refused.error.message.startswith("all 2 items were refused, the first with 400 BadInput")
    assert good.named("STATUS") == [200]


def test_a_parameter_is_a_header_that_a_handler_reads_or_refused(model: Any) -> None:
    npz, unknown, number = model.execute(
        [asked(npy(1.0), accept="application/x-npz"), asked(npy(1.0), top="3"),
         asked(npy(1.0), accept=1)]
    )  # fmt: skip
    assert npz.named("ANSWER")[0][:2] == b"PK"
    assert "parameters top came; expected none" in unknown.error.message
    assert "parameters accept came" in number.error.message


def test_the_handlers_figures_reach_tritons_families(model: Any) -> None:
    model.execute([asked(npy(1.0), b"nope")])
    page = triton_stub.MetricFamily.page
    assert page["handler_items", "ok"] == page["handler_items", "rejected"] == 1
    assert page["handler_fallback", "onnxruntime"] == 0
