"""Tensors as the Open Inference Protocol names and packs them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DTYPES = {
    "BOOL": "bool", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1",
    "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
"""NumPy's names of the protocol's types, little-endian; ``BYTES`` has none."""

BYTES = "BYTES"
LENGTH = 4
"""Bytes before each element of a packed ``BYTES`` tensor, with its length."""


class Mistake(Exception):
    """A request that is answered with an error; ``str(mistake)`` is one line for its sender.

    Attributes:
        status: as HTTP has it.
        reason: in a word; "" for the usual one of its status, None where the model's handler, and
            not the server, refuses.
    """

    def __init__(self, message: str, status: int = 400, reason: str | None = ""):
        super().__init__(message)
        self.status = status
        self.reason = reason


Bytes = bytes | memoryview
"""What came, without a copy where it is large."""


@dataclass(frozen=True)
class Spec:
    """A tensor that a model takes or gives; -1 is an axis of any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def record(self) -> dict[str, object]:
        """As the model's metadata has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def require(self, datatype: str, shape: Sequence[int]) -> None:
        """Raises ``Mistake`` for another type or shape, with what was expected."""
        fits = len(shape) == len(self.shape) and all(
            got >= 0 and want in (-1, got) for want, got in zip(self.shape, shape, strict=True)
        )
        if datatype != self.datatype or not fits:
            raise Mistake(
                f"input {self.name!r}: {datatype} {list(shape)} came; expected {self.datatype} "
                f"{list(self.shape)}, where -1 is any length"
            )


@dataclass(frozen=True)
class Tensor:
    """A tensor with its values.

    Attributes:
        data: packed as the protocol has it: little-endian in C order; of ``BYTES`` each element
            behind its length.
        is_text: the elements of ``BYTES`` came as JSON strings.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Bytes
    is_text: bool = False

    def elements(self) -> list[Bytes]:
        """The elements of a ``BYTES`` tensor.

        Raises:
            Mistake: lengths that do not fit the data or the shape.
        """
        found: list[Bytes] = []
        at, count = 0, math.prod(self.shape)
        while at < len(self.data) and len(found) <= count:
            begin = at + LENGTH
            at = begin + int.from_bytes(self.data[at:begin], "little")
            if at > len(self.data) or begin > len(self.data):
                raise Mistake(
                    f"input {self.name!r}: an element is longer than the {len(self.data):,} bytes "
                    "that came"
                )
            found.append(self.data[begin:at])
        if len(found) != count:
            came = len(found) if len(found) < count else f"more than {count}"
            raise Mistake(
                f"input {self.name!r}: {came} elements came; expected {count}, as its shape "
                f"{list(self.shape)} says"
            )
        return found

    def require_size(self) -> None:
        """Raises ``Mistake`` where the data is not as long as type and shape say."""
        expected = math.prod(self.shape) * size_of(self.datatype)
        if len(self.data) != expected:
            raise Mistake(
                f"input {self.name!r}: {len(self.data):,} bytes came; expected {expected:,} for "
                f"{self.datatype} {list(self.shape)}"
            )


def size_of(datatype: str) -> int:
    """Bytes of one value."""
    return int(DTYPES[datatype][-1]) if datatype != "BOOL" else 1


def packed(elements: Iterable[Bytes]) -> bytes:
    """Elements of ``BYTES``, each behind its length."""
    return b"".join(part for e in elements for part in (len(e).to_bytes(LENGTH, "little"), e))
