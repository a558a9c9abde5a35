"""Where a picture's label file lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def beside(picture: Path, suffix: str) -> Iterator[Path]:
    """Where a picture's labels may be, by its name with this suffix; the later one counts.

    That is beside it, in ``labels/`` there, and for a picture below ``images/`` in the same place
    below the ``labels/`` beside that.
    """
    name = f"{picture.stem}{suffix}"
    folder = picture.absolute().parent
    for above in folder.parents:
        if folder.relative_to(above).parts[0] == "images":
            yield above / "labels" / folder.relative_to(above / "images") / name
            break
    yield folder / name
    yield folder / "labels" / name
