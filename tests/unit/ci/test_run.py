"""``.ci/run`` with stand-ins for the system's programs: a browser is there before the tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOTE = 'echo "$(basename "$0") $*" CI=$CI >> "$CALLS"\n'


def ran(folder: Path, user: int = 0, apt: str = NOTE, **variables: str) -> tuple[list[str], str]:
    """What was called and what was said, where PATH holds nothing but stand-ins."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "basename"):
        (programs / name).symlink_to(shutil.which(name) or name)
    (programs / "python3").symlink_to(sys.executable)
    for name, body in {"id": f"echo {user}\n", "apt-get": apt, "make": NOTE}.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (programs / name).chmod(0o755)
    calls = folder / "calls"
    environment = {"PATH": str(programs), "CALLS": str(calls), **variables}
    done = subprocess.run(
        [str(programs / "bash"), str(ROOT / ".ci" / "run")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return calls.read_text().splitlines(), done.stdout + done.stderr


TEST = "make test CI=true"
UPDATE = "apt-get update -qq CI=true"
INSTALL = "apt-get install -qq --yes --no-install-recommends chromium CI=true"


def test_root_installs_a_browser_where_there_is_none(tmp_path: Path) -> None:
    assert ran(tmp_path) == ([UPDATE, INSTALL, TEST], "")


@pytest.mark.parametrize("given", [{"user": 1000}, {"CHROMIUM": "/opt/chromium"}])
def test_nothing_is_installed_otherwise(tmp_path: Path, given: dict[str, object]) -> None:
    assert ran(tmp_path, **given) == ([TEST], "")  # type: ignore[arg-type]


def test_an_installation_that_fails_is_said_and_the_tests_run(tmp_path: Path) -> None:
    calls, said = ran(tmp_path, apt="echo no network >&2; exit 100\n")
    assert calls == [TEST]
    assert said == (
        "error: chromium could not be installed, so the browser tests will fail: no network\n"
    )
