"""ONNX files: checked, and kept inside their own folder."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto

from repack.onnx import nodes
from repack.sources import told
from repack.sources.errors import SourceError, UnreadableFile, UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of


def load(path: Path) -> Source:
    """Any ONNX file that ``onnx.checker`` accepts; ``Source.module`` is None.

    Nodes that stand before those that feed them are put in order first.

    Raises:
        UnreadableFile: not an ONNX model after all, truncated, or its external data is missing.
        UnsupportedLayout: the checker refuses it, or its external data lies outside its folder.
    """
    model = _parse(path)
    for tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(path, tensor)
    ordered = _ordered(path, model)
    try:
        onnx.checker.check_model(str(ordered or path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise UnsupportedLayout(path, f"onnx.checker refuses it ({printable(error)})") from error
    network = printable(model.graph.name or model.producer_name or "onnx", 80)
    says = told.read({p.key: p.value for p in model.metadata_props})
    return Source(
        None,
        "onnx",
        network,
        says.names,
        path,
        sha256_of(path),
        says.kit_task,
        made_onnx=ordered,
        told=says,
    )


def _ordered(path: Path, model: ModelProto) -> Path | None:
    """The file with its nodes in the order that ONNX asks for, in a folder that goes with the
    process; None where they are."""
    if not nodes.sort(model.graph):
        return None
    folder = Path(tempfile.mkdtemp(prefix="repack-onnx-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    onnx.load_external_data_for_model(model, str(path.parent))
    onnx.save(model, folder / "ordered.onnx")
    return folder / "ordered.onnx"


def _parse(path: Path) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UnreadableFile(
            path, "starts like an ONNX file, but is truncated or damaged: get it again"
        ) from error
    if not model.ir_version or not model.opset_import or not model.graph.output:
        raise UnreadableFile(
            path,
            "no ONNX model (no version, operator set or output): get it again",
        )
    return model


def tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor of the model: initializers, constants, subgraphs and functions alike."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        if isinstance(current, TensorProto):
            yield current
            continue
        for field, value in current.ListFields():
            if field.message_type is None:
                continue
            waiting.extend([value] if isinstance(value, Message) else value)


def _check_external(path: Path, tensor: TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    outside = SourceError if not location else UnsupportedLayout
    parts = (*PurePosixPath(location).parts, *PureWindowsPath(location).parts)
    folder = path.resolve().parent
    target = (folder / location).resolve()
    if (
        not location
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).anchor
        or ".." in parts
        or not target.is_relative_to(folder)
    ):
        raise outside(
            path,
            f"tensor {printable(tensor.name, 60)!r} keeps its data in {printable(location, 80)!r}, "
            "expected a file in the model's own folder; refused",
        )
    if not target.is_file():
        raise UnreadableFile(
            path,
            f"its weights are in {printable(location, 80)!r}, not beside it: copy both",
        )
    size = target.stat().st_size
    offset, length = (_number(path, entries, key) for key in ("offset", "length"))
    if offset + length > size:
        raise UnreadableFile(
            path,
            f"its weights in {printable(location, 80)!r} end at byte {offset + length}, "
            f"the file has {size}: get it again",
        )


def _number(path: Path, entries: dict[str, str], key: str) -> int:
    text = entries.get(key, "0")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise UnreadableFile(path, f"external data with {key} {printable(text, 40)!r}")
    return int(text)
