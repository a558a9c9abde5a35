"""A model's configuration as Triton reads it, ``config.pbtxt``: protobuf's text format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from repack.backends.base import TritonBackend

BODY, ANSWER, STATUS, HEADERS = "BODY", "ANSWER", "STATUS", "HEADERS"
"""Tensors of an archive that is served whole: a file's bytes; the answer's bytes, its HTTP status,
and its headers as a JSON object."""


@dataclass(frozen=True)
class Word:
    """A name in the text that is no string: of an enum, or true."""

    name: str


STRING, INT32 = Word("TYPE_STRING"), Word("TYPE_INT32")
ZERO = Word("true")

Message = Mapping[str, Any]
NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Spec:
    """A tensor of a network: NumPy's name of its type; -1 is an axis of any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def word(self) -> Word:
        return Word(f"TYPE_{self.dtype.upper().replace('FLOAT', 'FP')}")

    def dims(self, batched: bool) -> tuple[int, ...]:
        """The shape as Triton wants it: the batch axis goes without saying."""
        return self.shape[1:] if batched else self.shape


@dataclass(frozen=True)
class Network:
    """What Triton's backend is asked, and gives.

    Attributes:
        batched: the first axis of all is the batch.
        pixels: inputs that it takes as ``[N, 3, H, W]`` in 0..1, where the handler gives uint8.
        most: its largest batch; 0 for any.
    """

    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    batched: bool
    pixels: tuple[str, ...] = ()
    most: int = 0


@dataclass(frozen=True)
class Serving:
    """How a model is served, by whatever backend.

    Attributes:
        gpu: whether its instances are on GPUs, ``instances`` on each.
        batch: the most requests that are answered together.
        batches: of these sizes it has a file of its own; empty for any.
        delay_us: microseconds that a batch is waited for.
        queue: requests that wait; further ones are refused.
    """

    gpu: bool
    instances: int
    threads: int
    batch: int
    batches: tuple[int, ...]
    delay_us: int
    queue: int

    @property
    def fields(self) -> dict[str, Any]:
        """Instances, batching and the queue's bound."""
        batching: dict[str, Any] = {"default_queue_policy": {"max_queue_size": self.queue}}
        if self.batch > 1:
            batching["max_queue_delay_microseconds"] = self.delay_us
            batching |= {"preferred_batch_size": self.batches} if self.batches else {}
        kind = Word("KIND_GPU" if self.gpu else "KIND_CPU")
        return {
            "max_batch_size": self.batch,
            "instance_group": [{"count": self.instances, "kind": kind}],
            "dynamic_batching": batching,
        }


def whole(
    name: str, serving: Serving, sample: str | None, more: Mapping[str, str] = NONE
) -> Message:
    """An archive in the Python backend, from the request's bytes to the answer's.

    Args:
        more: parameters of the model.
        sample: a file in the folder ``warmup`` that each instance answers before it is ready.
    """
    found: dict[str, Any] = {
        "name": name,
        "backend": "python",
        **serving.fields,
        "input": [tensor(BODY, STRING, [1])],
        "output": [
            tensor(ANSWER, STRING, [1]), tensor(STATUS, INT32, [1]), tensor(HEADERS, STRING, [1]),
        ],
        "parameters": parameters({"threads": str(serving.threads), **more}),
    }  # fmt: skip
    if sample:
        given = {"data_type": STRING, "dims": [1], "input_data_file": sample}
        inputs = {"key": BODY, "value": given}
        found["model_warmup"] = [{"name": "sample", "batch_size": 1, "inputs": [inputs]}]
    return found


def network(name: str, serving: Serving, told: Network, backend: TritonBackend) -> Message:
    """An archive's network in a backend of Triton's own, answered once before it is ready."""
    batch = serving.batch if told.batched else 0
    fields = serving.fields
    fields["dynamic_batching"].pop("default_queue_policy")  # whoever asks waits for its answer
    if not batch:
        del fields["dynamic_batching"]
    found: dict[str, Any] = {
        "name": name,
        "backend": backend.name,
        **fields,
        "max_batch_size": batch,
        "input": [tensor(s.name, s.word, s.dims(told.batched)) for s in told.inputs],
        "output": [tensor(s.name, s.word, s.dims(told.batched)) for s in told.outputs],
    }
    if backend.threads:
        found["parameters"] = parameters({backend.threads: str(serving.threads)})
    if all(n >= 0 for s in told.inputs for n in s.dims(told.batched)):
        inputs = [
            {
                "key": s.name,
                "value": {"data_type": s.word, "dims": s.dims(told.batched), "zero_data": ZERO},
            }
            for s in told.inputs
        ]
        found["model_warmup"] = [{"name": "zeros", "batch_size": min(1, batch), "inputs": inputs}]
    return found


def tensor(name: str, kind: Word, dims: Sequence[int]) -> Message:
    """An input or an output, without its batch axis."""
    return {"name": name, "data_type": kind, "dims": dims}


def parameters(given: Mapping[str, str]) -> list[Message]:
    return [{"key": k, "value": {"string_value": v}} for k, v in given.items()]


def text(message: Message) -> str:
    """The message in protobuf's text format."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterable[str]:
    for name, value in message.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (f"  {line}" for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {one.name if isinstance(one, Word) else json.dumps(one)}"
