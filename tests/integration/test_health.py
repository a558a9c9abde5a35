from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.torchserve import health
from deploy.torchserve.server import Server
from deploy.torchserve.settings import ROOT
from tests.support.archives import write_archive


def environ(server: Server) -> dict[str, str]:
    """What the image's environment says: where the run folder is, and little else."""
    return {"RUN_DIR": str(server.settings.run_dir)}


def test_a_server_whose_model_is_ready_is_healthy(echo_server: Server) -> None:
    assert health.ailment(environ(echo_server)) is None
    done = subprocess.run(
        [sys.executable, "deploy/torchserve/health.py"],
        cwd=ROOT,
        env={**os.environ, **environ(echo_server)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "healthy\n")


def test_a_model_that_lost_its_workers_is_not(server_factory: object, tmp_path: Path) -> None:
    write_archive(tmp_path, "fd1")
    server: Server = server_factory(tmp_path)  # type: ignore[operator]
    assert health.ailment(environ(server)) is None
    server.client.set_workers("fd1", 0)
    assert health.ailment(environ(server)) == "model fd1 is not READY"


def test_no_server_and_a_wrong_setting_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "was not started" in str(health.ailment({"RUN_DIR": str(tmp_path)}))
    monkeypatch.setenv("PORT", "eighty")
    assert health.main() == 1
    assert "PORT" in capsys.readouterr().out
