"""--tune on real servers: it starts, measures and stops them, and keeps what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.torchserve import defaults
from deploy.torchserve.settings import parse
from tests.support.archives import write_archive

ROOT = Path(__file__).resolve().parents[2]
BATCHED = """
import time
class Handler:
    def initialize(self, context):
        pass
    def handle(self, rows, context):
        time.sleep(0.03 + 0.002 * len(rows))
        return [b"{}"] * len(rows)
"""
"""Far faster in batches than one by one."""


def servers_of(store: Path) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("qpstest-tune-" in part for part in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_batches_are_found_where_they_pay(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    write_archive(store, "fd1", BATCHED)
    command = [sys.executable, str(ROOT / "qpstest"), "--tune", "--apply", "--cores", "1",
               "--latency-limit", "p95=400", "--model-store", str(store),
               "--json", str(tmp_path / "a.json")]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr
    tuned = json.loads((tmp_path / "a.json").read_text())["tuned"]
    assert int(tuned["best"]["batch_size"]) >= 4
    assert "bash run.sh --workers " in done.stdout
    assert "once more: " in done.stdout
    assert servers_of(store) == []
    kept = defaults.kept_file(store, "fd1")
    assert str(kept) in done.stdout
    _, settings = parse(["--model-store", str(store)], {})
    assert str(settings.batch_size) == tuned["best"]["batch_size"]


def test_a_store_without_the_model_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "qpstest"), "--tune", "--model-store", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no fd1.mar in" in done.stderr
    assert done.stderr.count("\n") == 1
