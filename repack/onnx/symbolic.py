"""The user's own ONNX form of operators that PyTorch's exporters do not know: ``--symbolic``.

The file holds ``SYMBOLIC``, from an operator's name to a function that writes it in ONNX::

    def soft_clip(op, x, limit):
        return op.Mul(op.Tanh(op.Div(x, limit)), limit)

    SYMBOLIC = {"kit_example::soft_clip": soft_clip, "aten::asinh": lambda op, x: op.Asinh(x)}

``op.Name(inputs, attribute=value)`` adds the ONNX operator ``Name`` and gives its output. Tensors
come as values of the graph, everything else as it is in Python; plain numbers and lists of them
may be inputs. The same function serves both of PyTorch's exporters.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from handlers.errors import KitError
from repack.sources.errors import printable

Functions = Mapping[str, Callable[..., Any]]

NAME = re.compile(r"\w+::\w+(\.\w+)?")
SUFFIXES = {bool: "i", int: "i", float: "f", str: "s", torch.Tensor: "t"}
"""How the older exporter wants an attribute's type told, at the end of its name."""


def load(path: Path) -> Functions:
    """Runs the user's file and gives its ``SYMBOLIC``.

    The file is code: it is run because the user named it, with all that Python may do.

    Raises:
        KitError: no such file, it fails, or ``SYMBOLIC`` is not what it should be.
    """
    try:
        code = compile(path.read_bytes(), str(path), "exec")
    except (OSError, SyntaxError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise KitError(f"--symbolic {path}: cannot be read ({printable(reason)})") from None
    names: dict[str, Any] = {"__name__": "symbolic_operators", "__file__": str(path)}
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(code, names)  # noqa: S102
    except Exception as e:  # whatever the user's code raises
        line = _line(e, path)
        raise KitError(
            f"--symbolic {path}{line}: {type(e).__name__} ({printable(e) or 'no message'})"
        ) from None
    finally:
        sys.path.remove(str(path.resolve().parent))
    found = names.get("SYMBOLIC")
    if not isinstance(found, dict) or not found:
        raise KitError(
            f"--symbolic {path}: defines no SYMBOLIC; expected such as "
            'SYMBOLIC = {"aten::asinh": lambda op, x: op.Asinh(x)}'
        )
    for name, function in found.items():
        if not isinstance(name, str) or not NAME.fullmatch(name) or not callable(function):
            raise KitError(
                f"--symbolic {path}: SYMBOLIC has {printable(repr(name), 80)}: "
                f"{type(function).__name__}; expected an operator such as 'aten::asinh' and a "
                "function"
            )
    return dict(found)


def translations(functions: Functions, opset: int) -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export(custom_translation_table=...)`` takes.

    Raises:
        KitError: an operator that PyTorch does not have.
    """
    import onnxscript

    op = getattr(onnxscript, f"opset{opset}")
    return {
        overload: _bound(function, op)
        for name, function in functions.items()
        for overload in _overloads(name)
    }


@contextmanager
def registered(functions: Functions, opset: int) -> Iterator[None]:
    """The functions as the older exporter's symbolic functions, while the block runs."""
    done: list[str] = []
    try:
        for full, function in functions.items():
            name = full.partition(".")[0]
            torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]
                name, _symbolic(function), opset
            )
            done.append(name)
        yield
    finally:
        for name in done:
            torch.onnx.unregister_custom_op_symbolic(name, opset)  # type: ignore[attr-defined]


class GraphWriter:
    """``op`` for the older exporter: ``op.Name(...)`` adds a node to its graph."""

    def __init__(self, graph: Any):
        self._graph = graph

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def add(*inputs: Any, **attributes: Any) -> Any:
            like = next((i for i in inputs if isinstance(i, torch._C.Value)), None)
            values = [self._value(i, like) for i in inputs]
            return self._graph.op(name, *values, **dict(map(_attribute, attributes.items())))

        return add

    def _value(self, given: Any, like: torch._C.Value | None) -> Any:
        """A plain number as a constant of the type of the tensor that it meets."""
        if isinstance(given, torch._C.Value):
            return given
        if not isinstance(given, torch.Tensor):
            meets = like if isinstance(given, (int, float)) else None
            given = torch.tensor(given, dtype=meets.type().dtype() if meets else None)
        return self._graph.op("Constant", value_t=given)


def _attribute(pair: tuple[str, Any]) -> tuple[str, Any]:
    name, value = pair
    one = value[0] if isinstance(value, (list, tuple)) and value else value
    return f"{name}_{SUFFIXES.get(type(one), 's')}", value


def _symbolic(function: Callable[..., Any]) -> Callable[..., Any]:
    def write(graph: Any, *arguments: Any) -> Any:
        return function(GraphWriter(graph), *map(_plain, arguments))

    return write


def _plain(value: Any) -> Any:
    """The Python value behind a constant of the graph; other values as they are."""
    if not isinstance(value, torch._C.Value):
        return value
    node = value.node()
    if node.kind() == "prim::ListConstruct":
        return [_plain(v) for v in node.inputs()]
    if node.kind() == "prim::Constant" and not isinstance(value.type(), torch.TensorType):
        return value.toIValue()
    if node.kind() in ("prim::Constant", "onnx::Constant") and node.kindOf("value") == "t":
        held = node.t("value")
        if held.dim() == 0:
            return held.item()
        # A list of whole numbers comes as a tensor; one that is an input becomes a tensor again.
        return held.tolist() if held.dim() == 1 and held.dtype == torch.int64 else value
    return value


def _bound(function: Callable[..., Any], op: Any) -> Callable[..., Any]:
    """The function without its ``op``, and without annotations, which the exporter would read."""

    @functools.wraps(function)
    def write(*arguments: Any, **named: Any) -> Any:
        return function(op, *arguments, **named)

    parameters = list(inspect.signature(function).parameters.values())[1:]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    write.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
    write.__annotations__ = {}
    del write.__wrapped__
    return write


def _overloads(name: str) -> list[Any]:
    space, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    packet = getattr(getattr(torch.ops, space), base, None)
    if packet is None or (overload and not hasattr(packet, overload)):
        raise KitError(
            f"--symbolic names operator {name}, which PyTorch does not have: import the code that "
            "defines it in that file"
        )
    return [getattr(packet, o) for o in ([overload] if overload else packet.overloads())]


def _line(error: BaseException, path: Path) -> str:
    trace, found = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = f", line {trace.tb_lineno}"
        trace = trace.tb_next
    return found
