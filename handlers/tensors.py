"""Raw tensors in, raw tensors out: any ONNX or TorchScript model."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handlers import payload
from handlers.accept import chosen
from handlers.base import NO_MEMORY, Handler
from handlers.errors import BadInput, ItemError, KitError, TooLarge, Unprocessable, reason
from handlers.passport import TensorSpec

Tensors = dict[str, NDArray[Any]]

NPZ = "application/x-npz"

MAX_BYTES = 1 << 30
"""Largest array that a request may claim, in bytes."""


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        tensors: by the inputs' names.
        rows: how many ``instances`` came, to be answered by as many ``predictions``; None where
            ``inputs`` came.
    """

    tensors: Tensors
    rows: int | None = None


class TensorHandler(Handler[Asked, Tensors]):
    """One request is one call of the model: every axis is the client's, the batch axis too.

    Taken: a ``.npy`` file (models with one input), a ``.npz`` file, JSON
    ``{"inputs": {"name": nested lists}}``, or the ``{"instances": [...]}`` of TensorFlow Serving
    and KServe v1, whose first axis is the list. Answered: JSON, or ``.npz`` where the client
    accepts ``application/x-npz``.
    """

    def decode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Asked | ItemError]:
        return self._each(lambda row: self.decode(_body(row)), rows)

    def decode(self, data: bytes) -> Asked:
        names = [spec.name for spec in self.passport.inputs]
        given, count = _read(data, names)
        found = {s.name: check(given, s) for s in self.passport.inputs}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise Unprocessable(
                f"inputs {', '.join(unknown)} came, which the model has not; expected "
                f"{', '.join(names)}"
            )
        return Asked(found, count)

    def infer(self, items: Sequence[Asked]) -> Sequence[Tensors]:
        with self.stages.measure("infer"):
            return [self._answer_of(item.tensors) for item in items]

    def _answer_of(self, item: Tensors) -> Tensors:
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
            raise Unprocessable(f"the model does not run on these values ({reason(e)})") from None

    def encode(self, item: Asked, result: Tensors, accept: str) -> tuple[bytes, str]:
        if chosen(accept, ("application/json", NPZ)) == NPZ:
            return npz(result), NPZ
        bad = [name for name, value in result.items() if not np.isfinite(value).all()]
        if bad:
            raise Unprocessable(
                f"output {', '.join(bad)} holds NaN or infinity, which JSON cannot carry: "
                "ask with 'Accept: application/x-npz', or check the input's values"
            )
        outputs = {
            name: {"shape": v.shape, "dtype": str(v.dtype), "data": v.tolist()}
            for name, v in result.items()
        }
        answer = {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            **({"outputs": outputs} if item.rows is None else _predictions(result, item.rows)),
        }
        return json.dumps(answer).encode(), "application/json"


def _predictions(result: Tensors, rows: int) -> dict[str, Any]:
    """A value for each instance; of several outputs a mapping by name.

    Raises:
        Unprocessable: an output has another first axis than the list.
    """
    for name, value in result.items():
        if value.shape[:1] != (rows,):
            raise Unprocessable(
                f"output {name} is {list(value.shape)} for {rows} instances, so its rows are not "
                'theirs: ask with {"inputs": ...}'
            )
    if len(result) == 1:
        return {"predictions": next(iter(result.values())).tolist()}
    lists = {name: value.tolist() for name, value in result.items()}
    return {"predictions": [{name: v[i] for name, v in lists.items()} for i in range(rows)]}


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
    value = payload.field(row)
    if isinstance(value, Mapping) and not FORMS.isdisjoint(value):
        return json.dumps(value).encode()
    if isinstance(value, (bytes, bytearray)) and value[:1] == b"{":
        return bytes(value)
    return payload.read(row)


FORMS = {"inputs", "instances"}
"""Keys of a JSON request, of which it has one."""

USUAL = {"signature_name": "serving_default"}
"""What TensorFlow Serving's clients send besides, and says nothing here."""


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
    with np.errstate(over="ignore"):
        found = np.asarray(value, spec.dtype, order="C")  # ascontiguousarray adds an axis to none
    if found.dtype.kind == "f" and (np.isinf(found) & np.isfinite(value)).any():
        raise Unprocessable(f"{spec.name}: values beyond those of {spec.dtype} came")
    _check_values(found, spec)
    return found


def _check_values(value: NDArray[Any], spec: TensorSpec) -> None:
    """Refuses values for which the model was not made."""
    if spec.values:
        wrong = value[~np.isin(value, spec.values)]
        expected = " or ".join(f"{v:.15g}" for v in spec.values)
    elif spec.range:
        wrong = value[(value < spec.range[0]) | (value > spec.range[1])]
        expected = f"{spec.range[0]:.15g} to {spec.range[1]:.15g}"
    else:
        return
    if wrong.size:
        raise Unprocessable(f"{spec.name}: {wrong[0]} came; expected {expected}")


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


def _read(data: bytes, names: list[str]) -> tuple[Tensors, int | None]:
    """Arrays by name, and how many ``instances`` came where they did."""
    try:
        if data[:6] == b"\x93NUMPY":
            if len(names) != 1:
                raise BadInput(
                    f"one .npy array came; the model has inputs {', '.join(names)}: send .npz"
                )
            return {names[0]: _npy(data)}, None
        if data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                if sum(info.file_size for info in z.infolist()) > MAX_BYTES:
                    raise TooLarge(f"the .npz unpacks to more than {MAX_BYTES:,} bytes")
                found = {i.filename.removesuffix(".npy"): z.read(i) for i in z.infolist()}
                return {name: _npy(value) for name, value in found.items()}, None
        return _of_json(json.loads(data), names)
    except (BadInput, TooLarge):
        raise
    except Exception as e:  # NumPy, zip and JSON readers raise many types for damaged data
        why = (str(e) or type(e).__name__).splitlines()[0]
        raise BadInput(
            f'{len(data)} bytes that are no .npy, .npz or JSON with "inputs" ({why})'
        ) from None


def _of_json(given: Any, names: list[str]) -> tuple[Tensors, int | None]:
    """``{"inputs": {name: lists}}``, or ``{"instances": [{name: lists}, ...]}``; the name may be
    left out where there is one input."""
    told = {k: v for k, v in given.items() if (k, v) not in USUAL.items()}
    if len(told) != 1:
        came = ", ".join(sorted(told)) or "none"
        raise BadInput(f'fields {came} came; expected one, "inputs" or "instances"')
    rows = None
    if "inputs" in told:
        inputs = told["inputs"]
    else:
        listed = told["instances"]
        rows = len(listed)
        named = [item for item in listed if isinstance(item, dict)]
        if not isinstance(listed, list) or not listed or len(named) not in (0, rows):
            raise BadInput("instances: expected a list of values, or of mappings by name")
        if any(item.keys() != named[0].keys() for item in named):
            raise BadInput("instances: expected the same names in each")
        inputs = {k: [item[k] for item in named] for k in named[0]} if named else listed
    if not isinstance(inputs, dict):
        if len(names) != 1:
            raise BadInput(f"one array came; the model has inputs {', '.join(names)}: name them")
        inputs = {names[0]: inputs}
    return {name: _array(value) for name, value in inputs.items()}, rows


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
    if claimed > MAX_BYTES:
        raise TooLarge(f"the array claims {claimed:,} bytes; at most {MAX_BYTES:,}")
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
