"""The one class that TorchServe loads from an archive.

It imports nothing heavy, because TorchServe retries a failed import as the name of a built-in
handler and so hides what was missing. The handler itself is named in the passport and imported
once the passport has been checked.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.base import Handler
    from handlers.context import Context

logger = logging.getLogger(__name__)

OWN_VARIABLE = "KIT_OWN_GPU_PROCESS"
"""Environment variable: where it is set, each worker holds its detector on the GPU itself."""


def own_gpu_process() -> bool:
    """Whether ``OWN_VARIABLE`` is set, to anything but 0."""
    return os.environ.get(OWN_VARIABLE, "") not in ("", "0")


class Entry:
    """Loads an archive's handler and passes batches on to it."""

    handler: Handler[Any, Any]

    def initialize(self, context: Context) -> None:
        """Checks the archive's files against its passport, then loads its model.

        Raises:
            KitError: the archive was changed, or no runtime of it can be loaded here.
        """
        from handlers.errors import KitError

        try:
            self._load(context)
        except KitError as e:
            logger.error("REFUSED %s: %s", context.model_name, e)
            raise

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Context) -> list[bytes]:
        """Answers one batch; the management API's describe request gets the passport."""
        from handlers.base import header

        # A describe request is always alone; in a batch, the header is some client's own.
        if len(rows) == 1 and header(context.get_all_request_header(0), "describe") == "true":
            return [json.dumps(self.handler.describe()).encode()]
        return self.handler.handle(rows, context)

    def _load(self, context: Context) -> None:
        from handlers.errors import RuntimeMissing
        from handlers.passport import Passport

        folder = Path(context.system_properties["model_dir"])
        passport = Passport.read(folder)
        passport.check_files(folder)
        try:
            from handlers.base import threads_per_worker
            from handlers.runtimes import load

            module, _, name = passport.handler.partition(":")
            handler = getattr(importlib.import_module(module), name)
        except ImportError as e:
            raise RuntimeMissing(e.name or "a package", e) from None
        threads = threads_per_worker()
        wanted = getattr(context, "artefact", "accelerated")
        gpu = context.system_properties.get("gpu_id")
        # TorchServe has several workers, and its context no such attribute.
        shared = getattr(context, "shared", not own_gpu_process())
        loaded = load(folder, passport, wanted, threads, gpu, shared)
        self.handler = handler(passport, loaded, threads)
        if loaded.fallback:
            logger.warning("FALLBACK %s: %s", passport.name, loaded.fallback)
        logger.info(
            "READY %s: %s, %s, %d threads",
            passport.name,
            loaded.runtime.name,
            loaded.runtime.precision,
            threads,
        )
