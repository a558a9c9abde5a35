"""Rows 13 and 15: bodies over the limit, and more requests than the queue takes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from qpstest.http_api import refusal
from tests.support.bench import GOOD, Bench, together

LIMIT = 2 << 20
"""The server of these tests takes bodies of up to 2 MiB."""


def noise(side: int) -> bytes:
    """A PNG that does not shrink: three bytes a pixel."""
    out = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_row_13_a_body_over_the_limit(served: Bench) -> None:
    """TorchServe itself refuses it, from the head alone and with an empty body."""
    large, small = noise(900), noise(800)
    assert len(small) < LIMIT < len(large)
    assert served.ask(large).status == 413
    assert served.ask(small).status == 200
    assert served.ask(large, "tiny").status == 413


def test_row_13_the_limit_is_set_on_purpose_and_large_by_default() -> None:
    from deploy.torchserve.settings import make

    assert make({}).max_request_mb >= 128


@pytest.mark.alone
@pytest.mark.parametrize("model", ["fd1"])
def test_row_15_a_full_queue_refuses_at_once(served: Bench, model: str) -> None:
    """The queue takes 8, a batch 4: of 60 at once, most are refused, and soon."""
    alone = served.ask(GOOD)
    replies = together([lambda: served.ask(GOOD, model)] * 60)
    refused = [r for r in replies if r.status != 200]
    answered = [r for r in replies if r.status == 200]
    assert {r.status for r in refused} == {503}
    assert len(answered) >= 8
    assert len(refused) >= 10
    assert {r.body for r in answered} == {alone.body}
    reason = refused[0].reason(503, "no worker to serve inference request")
    assert model in reason
    quickest = min(r.seconds for r in answered)
    assert np.median([r.seconds for r in refused]) < max(1.0, 2 * quickest)
    kinds = {refusal(r.status, r.body).kind for r in refused}
    assert kinds == {"overload"}, "the tester counts it apart from failures"
