"""Of a file with its own network, as a detector is made (``repack.tasks.detection.files``)."""

from __future__ import annotations

from repack.model import Model
from repack.options import Options
from repack.sources.source import Source
from repack.tasks.detection import files


def make(source: Source, options: Options) -> Model:
    """As ``repack.tasks.detection.files.make``."""
    return files.make(source, options, "instances")
