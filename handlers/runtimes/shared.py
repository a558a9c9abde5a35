"""A model on a GPU that one process runs for all workers of a server (``handlers.gpu.server``)."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from handlers.gpu.server.client import Client
from handlers.gpu.server.starting import Address
from handlers.gpu.server.wire import slot_bytes
from handlers.passport import Passport
from handlers.runtimes.base import Runtime


class Shared(Runtime):
    """Has the name, precision and note of that process's runtime; pictures go to ``client``.

    Args:
        passport: the archive's.
        wanted: which of its artefacts the GPU server loads.
    """

    def __init__(self, runtime: Runtime, passport: Passport, wanted: str):
        super().__init__(
            runtime.folder, runtime.artefact, runtime.inputs, runtime.threads, runtime.gpu
        )
        self.name = runtime.name
        self._wanted = wanted
        self._slot = slot_bytes(passport.settings)

    def activate(self) -> None:
        address = Address(self.folder, self._wanted, self.gpu or 0, self.threads)
        self.client = Client(address, self._slot)
        self.precision = str(self.client.greeting["precision"])
        self.note = str(self.client.greeting["note"])

    def infer(
        self, inputs: dict[str, NDArray[Any]], every: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Not offered: the GPU server takes pictures.

        Raises:
            TypeError: always.
        """
        raise TypeError("a shared model takes pictures, not arrays")
