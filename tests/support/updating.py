"""A small server whose model is replaced, in this process or by run.sh."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.torchserve import server as servers
from deploy.torchserve import state, update
from deploy.torchserve.settings import Change, Settings
from tests.support.hosted import echo
from tests.support.servers import serving, settings_for


@dataclass(frozen=True)
class Updated:
    """A server of the model "echo" in version 1.0, in a folder of its own."""

    folder: Path
    settings: Settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}/predictions/echo"

    @property
    def file(self) -> Path:
        return self.settings.model_store / "echo.mar"

    @property
    def sample(self) -> Path:
        path = self.folder / "sample"
        path.write_bytes(b"sample")
        return path

    def archive(self, version: str, sleep_ms: float = 0, broken: bool = False) -> Path:
        """An archive of another version, outside the store."""
        return echo(self.folder / version, "echo", version, sleep_ms, broken=broken)

    def update(self, *archives: Path | str, keep: bool = False, sample: Path | None = None) -> int:
        given = tuple(map(str, archives))
        return update.update(self.settings, Change(given, "", keep, sample or self.sample))

    def switch(self, target: str, keep: bool = False) -> int:
        return update.switch(self.settings, Change(switch=target, keep=keep))

    def has_workers(self, count: int) -> bool:
        """Whether all versions together come to that many worker processes."""
        end = time.monotonic() + 30  # where the machine is busy, one takes seconds to end
        while len(self.state().workers()) != count and time.monotonic() < end:
            time.sleep(0.05)
        return len(self.state().workers()) == count

    def state(self) -> state.State:
        found = state.read(self.settings.run_dir)
        assert found is not None
        return found

    def described(self) -> tuple[str, list[str]]:
        """The version that the guard's OpenAPI names, and those that the v2 protocol does."""
        client = servers.Server(self.settings, self.state()).client
        paths = client.request("predictions", "GET", "/openapi.json").json()["paths"]
        summary = str(paths["/predictions/echo"]["post"]["summary"])
        told = client.request("predictions", "GET", "/v2/models/echo").json()
        return summary.rpartition("version ")[2], list(told["versions"])

    def figures(self, pattern: str) -> set[str]:
        """What the pattern finds on the page for Prometheus."""
        client = servers.Server(self.settings, self.state()).client
        page = client.request("metrics", "GET", "/metrics").body.decode()
        return set(re.findall(pattern, page))

    def answers(self, version: str = "") -> Any:
        """The version that answers; the status where it is not 200."""
        client = servers.Server(self.settings, self.state()).client
        answer = client.predict(f"echo/{version}" if version else "echo", b"x", 10)
        return answer.json()["version"] if answer.status == 200 else answer.status


@contextmanager
def updated(folder: Path, sleep_ms: float = 0, **values: object) -> Iterator[Updated]:
    """Serves version 1.0 until the block ends."""
    echo(folder / "store", "echo", sleep_ms=sleep_ms)
    settings = settings_for(folder / "store", folder / "run", name="echo", **values)
    with serving(settings):
        yield Updated(folder, settings)
