"""The cache of PyTorch's compiler, which importing it makes in the machine's temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = "TORCHINDUCTOR_CACHE_DIR"


@contextmanager
def cache_in(folder: str | Path) -> Iterator[None]:
    """Keeps the cache in ``folder``: where PyTorch would have it, it would stay."""
    before = os.environ.get(NAME)
    os.environ[NAME] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(NAME)
        if before is not None:
            os.environ[NAME] = before
