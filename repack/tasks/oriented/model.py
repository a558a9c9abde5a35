"""Of a file with its own network, as a detector is made (``repack.tasks.detection.files``)."""

from __future__ import annotations

from handlers.errors import KitError
from repack.model import Model
from repack.options import Options
from repack.sources.source import Source
from repack.tasks.detection import files


def make(source: Source, options: Options) -> Model:
    """As ``repack.tasks.detection.files.make``.

    Raises:
        KitError: pictures would be stretched, too.
    """
    if options.detector.mode == "stretch":
        raise KitError(
            "--resize-mode stretch: a box at an angle is no rectangle in a stretched picture; "
            "leave it out"
        )
    return files.make(source, options, "oriented")
