"""What can go wrong, in words for the person who can mend it.

Every message is one line that names what came, what was expected and, where there is one, the
next action. A ``KitError`` is a user's mistake or a refused input; anything else is a bug.
"""

from __future__ import annotations

import re

PLACE = re.compile(
    r".*Status Message: "
    r"(?:\S+\.(?:h|cc):\d+ (?:(?:\S+ )?onnxruntime::[^)]*\)(?: const)?(?: \[with [^\]]*\])?|\w+) )?"
)
"""What ONNX Runtime says before its reason: the node, and a place in its own code."""


def reason(error: Exception) -> str:
    """A library's error in one line: the last, which says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return PLACE.sub("", lines[-1]) if lines else type(error).__name__


class KitError(Exception):
    """A mistake of the user or a refused input; ``str(error)`` is one line."""


class ArchiveError(KitError):
    """An archive or its passport is damaged, foreign or unsafe."""


PIP_NAMES = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "google": "protobuf",
    "opentelemetry": "opentelemetry-exporter-otlp-proto-http",
}
"""Packages that pip knows by another name than Python's import."""


class RuntimeUnfit(KitError):
    """This machine cannot run an artefact; the archive's portable module can serve instead."""


class RuntimeMissing(RuntimeUnfit):
    """A runtime's library is not installed.

    Args:
        library: the package's name, as Python's import or pip knows it.
        reason: the import's own message.
    """

    def __init__(self, library: str, reason: object):
        library = PIP_NAMES.get(library.partition(".")[0], library)
        first = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        super().__init__(f"{library} cannot be loaded ({first}): pip install {library}")
        self.library = library


LONGEST = 500
"""Characters of an item's message; names in a request may be of any length."""


class ItemError(KitError):
    """One request of a batch cannot be answered; the others can.

    The message may quote the request: what would not print, or break the line, becomes a space.

    Attributes:
        status: the HTTP status of the answer.
    """

    status = 500

    def __init__(self, message: str):
        line = "".join(c if c.isprintable() else " " for c in message)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}...")


class BadInput(ItemError):
    """The bytes are not what they should be (empty, truncated, not decodable)."""

    status = 400


class TooLarge(ItemError):
    """The input would need more memory than the archive allows."""

    status = 413


class UnsupportedFormat(ItemError):
    """A format that is not on the allow-list."""

    status = 415


class Unprocessable(ItemError):
    """Readable, but of a shape, type or value that the model does not take."""

    status = 422


class InternalFault(ItemError):
    """A fault of the kit itself; the worker's log has the traceback."""

    status = 500


class OutOfMemory(ItemError):
    """The worker or the device ran out of memory for this batch."""

    status = 507
