"""Raw tensors in, raw tensors out: any ONNX or TorchScript model."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import payload
from handlers.accept import chosen
from handlers.base import NO_MEMORY, Handler, require_sendable
from handlers.errors import BadInput, ItemError, KitError, TooLarge, Unprocessable
from handlers.memory import memory_limit, require, require_json
from handlers.passport import TensorSpec

Tensors = dict[str, NDArray[Any]]

NPZ = "application/x-npz"

MAX_BYTES = 1 << 30
"""Largest arrays that a request may claim together, in bytes."""

MODEL_SHARE = 8
"""Arrays may take this part of the worker's memory: the model makes others of them."""

ELEMENT = 64
"""Bytes that a number takes while an answer is written as JSON: the object and its digits."""

SHORTEST = 3
"""Characters of a number in JSON, with what divides it from the next: ``1, ``."""


class TensorHandler(Handler[Tensors, Tensors]):
    """One request is one call of the model: every axis is the client's, the batch axis too.

    Taken: a ``.npy`` file (models with one input), a ``.npz`` file, or JSON
    ``{"inputs": {"name": nested lists}}``. Answered: JSON, or ``.npz`` where the client accepts
    ``application/x-npz``.
    """

    def decode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Tensors | ItemError]:
        return self._each(lambda row: self.decode(_body(row)), rows)

    def decode(self, data: bytes) -> Tensors:
        names = [spec.name for spec in self.passport.inputs]
        given = _read(data, names)
        found = {s.name: check(given, s) for s in self.passport.inputs}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise Unprocessable(
                f"inputs {', '.join(unknown)} came, which the model has not; expected "
                f"{', '.join(names)}"
            )
        return found

    def infer(self, items: Sequence[Tensors]) -> Sequence[Tensors]:
        with self.stages.measure("infer"):
            return [self._asked(item) for item in items]

    def _asked(self, item: Tensors) -> Tensors:
        """One call of the model.

        Raises:
            Unprocessable: the model does not run on these values, though it runs on others.
        """
        try:
            # Copied, because a runtime may use its output buffers again for the next item.
            return {name: np.array(value) for name, value in self.runtime.infer(item).items()}
        except (KitError, MemoryError):
            raise
        except Exception as e:  # runtimes raise many types for values that a model does not take
            if any(words in str(e).lower() for words in NO_MEMORY):
                raise
            self.runtime.warm_up()  # what fails here too is no fault of the request
            reason = (str(e).strip().splitlines() or [type(e).__name__])[-1]
            raise Unprocessable(f"the model does not run on these values ({reason})") from None

    def encode(self, item: Tensors, result: Tensors, accept: str) -> tuple[bytes, str]:
        binary = chosen(accept, ("application/json", NPZ)) == NPZ
        require_answer(result, binary)
        if binary:
            return npz(result), NPZ
        bad = [name for name, value in result.items() if not np.isfinite(value).all()]
        if bad:
            raise Unprocessable(
                f"output {', '.join(bad)} holds NaN or infinity, which JSON cannot carry: "
                "ask with 'Accept: application/x-npz', or check the input's values"
            )
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "outputs": {
                name: {"shape": v.shape, "dtype": str(v.dtype), "data": v.tolist()}
                for name, v in result.items()
            },
        }
        return json.dumps(answer).encode(), "application/json"


def most_bytes() -> int:
    """Bytes that the arrays of one request may claim."""
    return min(MAX_BYTES, memory_limit() // MODEL_SHARE)


def require_answer(result: Tensors, binary: bool) -> None:
    """Checks an answer's size before it is written.

    Raises:
        TooLarge: it has more bytes than the server sends, or takes more memory than there is.
    """
    count = sum(value.size for value in result.values())
    least = sum(value.nbytes for value in result.values()) if binary else count * SHORTEST
    require_sendable(least, "or more ")
    if not binary:
        require(count * ELEMENT, memory_limit(), f"an answer of {count:,} numbers as JSON")


def npz(arrays: Tensors) -> bytes:
    """A ``.npz`` file; NumPy's own writer takes no array called "file"."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, value in arrays.items():
            with z.open(f"{name}.npy", "w", force_zip64=True) as f:
                np.lib.format.write_array(f, np.asanyarray(value), allow_pickle=False)
    return out.getvalue()


def _body(row: Mapping[str, Any]) -> bytes:
    """The bytes of a request; JSON as it is."""
    value = row.get("body", row.get("data"))
    if isinstance(value, Mapping) and "inputs" in value:
        return json.dumps(value).encode()
    if isinstance(value, (bytes, bytearray)) and value[:1] == b"{":
        return bytes(value)
    return payload.read(row)


def check(given: Tensors, spec: TensorSpec) -> NDArray[Any]:
    """The array for one input, contiguous and of the input's own type.

    Raises:
        BadInput: the input is missing.
        Unprocessable: another rank, size, or a type that does not convert without loss of meaning.
    """
    if spec.name not in given:
        raise BadInput(f"inputs {', '.join(given) or 'none'} came; expected {spec.name}")
    value = given[spec.name]
    fits = len(value.shape) == len(spec.shape) and all(
        isinstance(want, str) or want == got
        for want, got in zip(spec.shape, value.shape, strict=True)
    )
    if not fits:
        raise Unprocessable(
            f"{spec.name}: shape {list(value.shape)} came; expected {list(spec.shape)}"
        )
    if value.size == 0:
        raise Unprocessable(f"{spec.name}: shape {list(value.shape)} holds no values")
    _check_type(value, spec)
    return np.ascontiguousarray(value, dtype=spec.dtype)


def _check_type(value: NDArray[Any], spec: TensorSpec) -> None:
    """Whole numbers fit any whole type that holds their values; JSON's are always 64 bits."""
    wanted = np.dtype(spec.dtype)
    if value.dtype.kind in "iu" and wanted.kind in "iu":
        low, high, limits = value.min(), value.max(), np.iinfo(wanted)
        if low < limits.min or high > limits.max:
            raise Unprocessable(
                f"{spec.name}: values from {low} to {high} came; expected {spec.dtype}"
            )
    elif not np.can_cast(value.dtype, wanted, "same_kind"):
        raise Unprocessable(f"{spec.name}: {value.dtype} came; expected {spec.dtype}")


def _read(data: bytes, names: list[str]) -> Tensors:
    try:
        if data[:6] == b"\x93NUMPY":
            if len(names) != 1:
                raise BadInput(
                    f"one .npy array came; the model has inputs {', '.join(names)}: send .npz"
                )
            return {names[0]: _npy(data)}
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                claimed = sum(info.file_size for info in z.infolist())
                if claimed > most_bytes():
                    raise TooLarge(
                        f"the .npz unpacks to {claimed:,} bytes; at most {most_bytes():,}"
                    )
                return {i.filename.removesuffix(".npy"): _npy(z.read(i)) for i in z.infolist()}
        require_json(len(data))
        inputs = json.loads(data)["inputs"]
        if not isinstance(inputs, dict):
            inputs = {names[0]: inputs}
        return {name: _array(value) for name, value in inputs.items()}
    except (BadInput, TooLarge):
        raise
    except Exception as e:  # NumPy, zip and JSON readers raise many types for damaged data
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise BadInput(
            f'{len(data)} bytes that are no .npy, .npz or JSON with "inputs" ({reason})'
        ) from None


def _npy(data: bytes) -> NDArray[Any]:
    f = io.BytesIO(data)
    version = np.lib.format.read_magic(f)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(f)
    claimed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if claimed > most_bytes():
        raise TooLarge(f"the array claims {claimed:,} bytes; at most {most_bytes():,}")
    if claimed > len(data):
        raise BadInput(
            f"the array's header claims {claimed:,} bytes, {len(data):,} came: truncated"
        )
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)  # of 64 bits: ``check`` gives it the input's own type
    if array.dtype.kind not in "iubf":
        raise BadInput(f"lists of {array.dtype} came; expected numbers in equally long rows")
    return array
