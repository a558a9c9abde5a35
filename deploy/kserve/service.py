"""The protocol over gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import grpc  # type: ignore[import-untyped]
from grpc import aio

from deploy.kserve import rest
from deploy.kserve.messages import SERVICE, messages
from deploy.kserve.models import passed_on
from deploy.kserve.rest import Speaker
from deploy.kserve.tensors import BYTES, DTYPES, Mistake, Tensor, packed

CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""gRPC's names of HTTP statuses; others below 500 are the sender's mistake, the rest ours."""

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents",
}  # fmt: skip
"""The field that holds a tensor's values, where they are not raw."""


Hold = Callable[[int], AbstractContextManager[None]]
"""Holds so many bytes of a request while it is answered; raises ``Mistake`` where that is too
much."""


async def start(
    speaker: Speaker, host: str, port: int, shared: bool, max_body: int, hold: Hold
) -> aio.Server:
    """A server that listens, on a port ``shared`` with others of its kind.

    Raises:
        RuntimeError: it cannot.
    """
    # A message has names and lengths beside its values, and an answer is another size.
    options = [
        ("grpc.max_receive_message_length", max_body + (1 << 20)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 8192),
        ("grpc.so_reuseport", int(shared)),
    ]
    server = aio.server(options=options)
    server.add_generic_rpc_handlers((handlers(speaker, hold),))
    server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server


def handlers(speaker: Speaker, hold: Hold) -> Any:
    """The service's methods."""
    known = messages()

    async def server_live(request: Any, headers: Mapping[str, str]) -> Any:
        return known["ServerLiveResponse"](live=True)

    async def server_ready(request: Any, headers: Mapping[str, str]) -> Any:
        return known["ServerReadyResponse"](ready=await speaker.all_ready())

    async def model_ready(request: Any, headers: Mapping[str, str]) -> Any:
        model = speaker.model(request.name, request.version)
        return known["ModelReadyResponse"](ready=await speaker.is_ready(model))

    async def server_metadata(request: Any, headers: Mapping[str, str]) -> Any:
        return known["ServerMetadataResponse"](name=rest.NAME, version=rest.VERSION)

    async def model_metadata(request: Any, headers: Mapping[str, str]) -> Any:
        model = speaker.model(request.name, request.version)
        return known["ModelMetadataResponse"](**model.metadata)

    async def model_infer(request: Any, headers: Mapping[str, str]) -> Any:
        model = speaker.model(request.model_name, request.model_version)
        outputs = await model.infer(read(request), parameters(request), headers, speaker.ask)
        names = [output.name for output in request.outputs] or [t.name for t in outputs]
        by_name = {tensor.name: tensor for tensor in outputs}
        if unknown := [name for name in names if name not in by_name]:
            raise Mistake(f"output {unknown[0]!r} was asked for; there is {', '.join(by_name)}")
        given = [by_name[name] for name in names]
        return known["ModelInferResponse"](
            model_name=model.name,
            model_version=model.version,
            id=request.id,
            outputs=[{"name": t.name, "datatype": t.datatype, "shape": t.shape} for t in given],
            raw_output_contents=[tensor.data for tensor in given],
        )

    methods: Mapping[str, Callable[[Any, Mapping[str, str]], Awaitable[Any]]] = {
        "ServerLive": server_live,
        "ServerReady": server_ready,
        "ModelReady": model_ready,
        "ServerMetadata": server_metadata,
        "ModelMetadata": model_metadata,
        "ModelInfer": model_infer,
    }
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                _guarded(method, hold, speaker),
                known[f"{name}Request"].FromString,
                known[f"{name}Response"].SerializeToString,
            )
            for name, method in methods.items()
        },
    )


def _guarded(
    method: Callable[[Any, Mapping[str, str]], Awaitable[Any]], hold: Hold, speaker: Speaker
) -> Callable[[Any, Any], Awaitable[Any]]:
    async def answered(request: Any, context: Any) -> Any:
        told = {str(key).lower(): value for key, value in context.invocation_metadata() or ()}
        try:
            with hold(request.ByteSize()):
                return await method(request, passed_on(told))
        except Mistake as e:
            speaker.refused(e)
            usual = grpc.StatusCode.INVALID_ARGUMENT if e.status < 500 else grpc.StatusCode.INTERNAL
            await context.abort(CODES.get(e.status, usual), str(e))

    return answered


def parameters(request: Any) -> dict[str, Any]:
    """A request's parameters; those that are no texts as what they are."""
    found = {}
    for entry in request.parameters:
        which = entry.value.WhichOneof("parameter_choice")
        found[entry.key] = getattr(entry.value, which) if which else None
    return found


def read(request: Any) -> list[Tensor]:
    """The inputs of a request.

    Raises:
        Mistake: raw contents for some of them only, or a type that the protocol has not.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Mistake(f"{len(raw)} raw contents came for {len(request.inputs)} inputs")
    found = []
    for number, tensor in enumerate(request.inputs):
        if tensor.datatype not in (*DTYPES, BYTES):
            raise Mistake(f"input {tensor.name!r}: datatype {tensor.datatype!r} came")
        data = raw[number] if raw else _contents(tensor)
        found.append(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    return found


def _contents(tensor: Any) -> bytes:
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise Mistake(f"input {tensor.name!r}: {tensor.datatype} came outside raw contents")
    values = getattr(tensor.contents, field)
    if tensor.datatype == BYTES:
        return packed(values)
    import numpy as np

    try:
        return np.array(list(values), DTYPES[tensor.datatype]).tobytes()
    except OverflowError as e:
        raise Mistake(f"input {tensor.name!r}: no values of {tensor.datatype} ({e})") from None
