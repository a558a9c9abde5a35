"""What is said of the archives before they are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.torchserve import flow
from deploy.torchserve.settings import make
from tests.support.archives import build, write_archive


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4318"])
def test_an_archive_that_cannot_be_traced_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], endpoint: str
) -> None:
    write_archive(tmp_path, "old")
    build(tmp_path, "new.mar")
    store = {"model_store": str(tmp_path), "name": "old"}
    flow.check_archives(make({**store, "otel_exporter_otlp_endpoint": endpoint}))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("traces")]
    assert said == (
        ["traces   old.mar: packed by a kit without traces, so it sends none"] if endpoint else []
    )
