"""One model of a running server, and what the kit remembers of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.torchserve import server as servers
from deploy.torchserve import state
from deploy.torchserve.server import Server
from deploy.torchserve.settings import Settings
from handlers.errors import KitError


@dataclass(frozen=True)
class Served:
    """A server, and one model of it.

    Attributes:
        versions: version -> its name in TorchServe.
        default: the version that answers where none is named.
    """

    server: Server
    name: str
    versions: Mapping[str, str]
    default: str

    @property
    def temp(self) -> Path:
        return Path(self.server.state.temp)

    @property
    def store_file(self) -> Path:
        return self.server.settings.model_store / f"{self.name}.mar"

    @property
    def sha256(self) -> str:
        return self.server.state.archives[self.store_file.name]

    @classmethod
    def of(cls, settings: Settings, name: str) -> Served:
        """What the server of this run folder has of a model.

        Raises:
            KitError: there is no server, or no such model.
        """
        server = servers.running(settings)
        if server is None:
            raise KitError("not running: start it with bash run.sh")
        known = server.state.versions
        if name not in known:
            raise KitError(
                f"{name} is not served, so it has no version to replace (served:"
                f" {', '.join(sorted(known))}): bash run.sh --stop, then bash run.sh"
            )
        told = server.client.describe(name)
        default = next(
            (v for v, n in known[name].items() if told and n == told["modelVersion"]), None
        )
        if default is None:
            raise KitError(f"{name}: TorchServe does not say which version serves: try again")
        return cls(server, name, known[name], default)


def remember(served: Served, more: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes down what is served now."""
    run_dir = served.server.settings.run_dir
    found = state.read(run_dir) or served.server.state
    changed = {field: getattr(found, field) | dict(values) for field, values in more.items()}
    state.write(run_dir, replace(found, **changed))
