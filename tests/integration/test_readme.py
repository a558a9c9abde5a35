"""The README's commands are run as they stand, in a copy of the checkout, but for the ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.torchserve import settings as serving
from qpstest import options as tester
from repack import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
PORTS = {"8080": "18710", "8081": "18711", "8082": "18712"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the checkout, without its archives, that shares this environment."""
    if not (Path(sys.prefix) / "kit-setup.json").exists():
        pytest.skip("runs in the environment that run.sh makes: make test")
    copy = tmp_path_factory.mktemp("readme") / "checkout"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(sys.prefix)
    yield copy
    run("bash run.sh --stop", copy)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """One command line as a user types it, on the test's ports."""
    for usual, mine in PORTS.items():
        command = command.replace(f":{usual}", f":{mine}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment |= {"PORT": PORTS["8080"], "GRPC_PORT": "18715"}
    return subprocess.run(
        ["bash", "-c", command],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_works(checkout: Path) -> None:
    lines = [line for block in BLOCKS for line in block.strip().splitlines()]
    assert "bash run.sh" in lines
    assert "make test" in lines
    for line in lines:
        if line == "make test":  # this is it
            continue
        done = run(line, checkout)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, line
        assert '"code":' not in done.stdout, line


@pytest.mark.parametrize(
    ("program", "parser"),
    [("model_repack.py", cli.parser()), ("run.sh", serving.parser()), ("qpstest", tester.parser())],
)
def test_every_flag_is_in_the_readme(program: str, parser: object) -> None:
    actions = parser._actions  # type: ignore[attr-defined]
    flags = {flag for action in actions for flag in action.option_strings if flag != "-h"}
    missing = sorted(f for f in flags - {"--help"} if not re.search(rf"`{f}[` ]", README))
    assert not missing, f"{program}: {', '.join(missing)}"
