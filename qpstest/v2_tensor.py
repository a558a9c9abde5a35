"""Tensors as the Open Inference Protocol names and packs them, over REST and over gRPC."""

from __future__ import annotations

import io
from dataclasses import dataclass

from deploy.kserve.tensors import BYTES, DTYPES, packed
from handlers.errors import KitError


@dataclass(frozen=True)
class Tensor:
    """The model's input: name, type of the elements (``BYTES`` for whole files), shape."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def pack(self, body: bytes) -> tuple[list[int], bytes]:
        """(shape, bytes as the protocol has them) of an input: a file, or an array's ``.npy``.

        Raises:
            KitError: the model takes arrays, and this is none of its type and shape.
        """
        if self.datatype == BYTES:
            return [1] * len(self.shape), packed([body])
        import numpy as np

        wanted = f"{self.datatype} {list(self.shape)}"
        try:
            array = np.load(io.BytesIO(body), allow_pickle=False)
        except ValueError:
            raise KitError(
                f"the model's input {self.name!r} takes {wanted}: a .npy file was expected"
            ) from None
        dtype = np.dtype(DTYPES.get(self.datatype, "V1"))
        fits = array.ndim == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, array.shape, strict=True)
        )
        if array.dtype != dtype or not fits:
            raise KitError(
                f"the model's input {self.name!r} takes {wanted}, but the file holds "
                f"{array.dtype} {list(array.shape)}"
            )
        return list(array.shape), np.ascontiguousarray(array).tobytes()
