"""Every ```bash block of the README and of docs/ is run as it stands, in one copy of the checkout.

Only the ports and /tmp differ. A command that an earlier page has is not run again. ```sh blocks
are not run: they need a GPU, Docker, or a reader's own files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.pages import DOCS, README, ROOT
from tests.support.servers import free_ports

LAST = ROOT / "docs" / "tutorial.md"
"""Serves another model than the other pages do, and stops the server."""

USUAL_PORT = 8080


@dataclass(frozen=True)
class Checkout:
    """A folder, and ports for its server."""

    folder: Path
    port: int
    grpc_port: int

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """One command line as a user types it, on these ports."""
        for i in range(3):  # inference, management, metrics
            command = command.replace(f":{USUAL_PORT + i}", f":{self.port + i}")
        command = command.replace("/tmp/", f"{self.folder.parent}/")  # noqa: S108
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        environment |= {"PORT": str(self.port), "GRPC_PORT": str(self.grpc_port)}
        return subprocess.run(
            ["bash", "-c", command],
            check=False,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
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
    made = Checkout(copy, *free_ports())
    yield made
    made.run("bash run.sh --stop")


def promised(where: Sequence[Path]) -> list[tuple[str, str]]:
    """Page and command, in the order in which they are run; an earlier page's are left out."""
    found: list[tuple[str, str]] = []
    for page in where:
        before = {command for _, command in found}
        own = pages.commands(pages.read(page))
        found += [(page.name, command) for command in own if command not in before]
    return found


PAGES = (README, *(p for p in DOCS if p != LAST), LAST)


def test_two_commands_do_all_set_up() -> None:
    assert {"bash run.sh", "make test"} <= set(pages.commands(pages.read(README)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, command, marks=() if page == README.name else pytest.mark.slow)
        for page, command in promised(PAGES)
        if command != "make test"  # this is it
    ],
)
def test_every_command_of_the_pages_works(checkout: Checkout, page: str, command: str) -> None:
    """In the pages' order, each after those before it."""
    done = checkout.run(command)
    said = f"{page}: {command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, said
    assert "Traceback" not in done.stderr, said
    assert '"code":' not in done.stdout, said
