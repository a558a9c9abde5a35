"""Bounds of forms: TorchServe's decoder takes seconds for millions of empty fields."""

from __future__ import annotations

import re

from deploy.torchserve.guard.http import END, Refusal

MAX_FIELDS = 64
MAX_PART_HEAD = 4096
URL_ENCODED = b"application/x-www-form-urlencoded"
MULTIPART = b"multipart/form-data"
MEDIA_TYPE = re.compile(
    rb"multipart/form-data *; *boundary=(?:([0-9A-Za-z'+_./:=?-]{1,70})|\"([^\"\\;,]{1,70})\")",
    re.IGNORECASE,
)


class Fields:
    """Counts the fields of a URL-encoded form."""

    has_json = False

    def __init__(self) -> None:
        self._count = 1

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the body; raises ``Refusal``."""
        self._count += data.count(b"&")
        if self._count > MAX_FIELDS:
            raise Refusal(
                413,
                f"a form of more than {MAX_FIELDS} fields came; a file is sent as such, with "
                "curl -T, or with another Content-Type than curl --data-binary gives it",
            )


class Parts:
    """Counts the parts of a multipart form, and bounds their heads.

    Attributes:
        has_json: whether a part is JSON, which TorchServe unpacks before any handler.
    """

    def __init__(self, boundary: bytes):
        self.has_json = False
        self._delimiter = b"--" + boundary
        self._carry = b""
        self._in_head = False
        self._count = -1  # the last delimiter ends the form

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the body; raises ``Refusal``."""
        data, at = self._carry + data, 0
        while True:
            if self._in_head:
                end = data.find(END, at, at + MAX_PART_HEAD)
                if end < 0:
                    if len(data) - at >= MAX_PART_HEAD:
                        raise Refusal(413, "a form's part has a head of more than 4 KiB")
                    self._carry = data[at:]
                    return
                head = data[at:end].lower()
                if b"multipart/" in head:
                    raise Refusal(415, "a form within a form came; expected one of files")
                self.has_json |= b"json" in head
                self._in_head, at = False, end
            found = data.find(self._delimiter, at)
            if found < 0:
                self._carry = data[max(at, len(data) - len(self._delimiter) + 1) :]
                return
            self._count += 1
            if self._count > MAX_FIELDS:
                raise Refusal(413, f"a form of more than {MAX_FIELDS} parts came")
            self._in_head, at = True, found + len(self._delimiter)


def form(media_type: bytes) -> Fields | Parts | None:
    """What looks into a body of this type; None where it is no form.

    Raises:
        Refusal: a multipart form whose boundary could be read in more than one way.
    """
    kind = media_type.partition(b";")[0].strip().lower()
    if kind == URL_ENCODED:
        return Fields()
    if not kind.startswith(MULTIPART):
        return None
    found = MEDIA_TYPE.fullmatch(media_type)
    if found is None:
        raise Refusal(400, "a multipart form came without a plain boundary")
    return Parts(found[1] or found[2])
