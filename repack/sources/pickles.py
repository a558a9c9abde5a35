"""Reads a pickle as data: a stack machine over ``pickletools.genops``, without the pickle module.

A pickle is a program; ``pickle.load`` runs it. Here every opcode has a short method of its own,
mentioned names go through ``pickle_names.resolve`` (which imports nothing), and only the builders
listed there are ever called. Whatever else the program asks for is refused by name.
"""

from __future__ import annotations

import pickletools
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from repack.sources.errors import SourceError, UnreadableFile, UnsafePickle, printable
from repack.sources.pickle_names import (
    Builder,
    Inert,
    InertClass,
    Unsafe,
    checked_key,
    modern,
    resolve,
)

_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
_GETS = ("GET", "BINGET", "LONG_BINGET")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")

Persistent = Callable[[object], object]
"""Turns a persistent id (torch.save's mention of a storage) into an object, or ValueError."""


def _no_persistent_ids(_: object) -> object:
    raise ValueError("a reference to data outside the pickle")


def _slot(arg: object) -> int:
    """A place in the memo, of 32 bits: greater ones, which only PUT can give, may hash alike."""
    slot = int(str(arg))
    if not 0 <= slot < 1 << 32:
        raise ValueError(f"memo slot of {slot.bit_length()} bits")
    return slot


class PickleReader:
    """One pickle of ``path``, read into plain containers, tensors and inert stand-ins.

    Args:
        path: the checkpoint, for messages.
        persistent: see ``Persistent``.
    """

    def __init__(self, path: Path, persistent: Persistent = _no_persistent_ids):
        self.path = path
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def read(self, stream: IO[bytes]) -> object:
        """The object of the pickle that starts at ``stream``'s position; stops after its end.

        Raises:
            UnsafePickle: it mentions a name that is not on the list, or calls something.
            UnreadableFile: truncated or not a pickle.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes in damaged text
                return self._run(stream)
        except SourceError:
            raise
        except Unsafe as e:
            raise UnsafePickle(self.path, f"its pickle calls {e}; refused") from None
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, RuntimeError) as error:
            raise UnreadableFile(
                self.path, f"its pickle is damaged ({printable(error, 120)}); get the file again"
            ) from error

    def _run(self, stream: IO[bytes]) -> object:
        for opcode, arg, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return self.stack.pop()
            self._step(opcode.name, arg)
        raise ValueError("no end")

    def _step(self, name: str, arg: Any) -> None:
        if name in _LITERALS:
            self.stack.append(arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _GETS:
            self.stack.append(self.memo[int(arg)])
        elif name in _PUTS:
            self.memo[_slot(arg)] = self.stack[-1]
        elif name not in ("PROTO", "FRAME"):
            method = getattr(self, f"_op_{name.lower()}", None)
            if method is None:
                raise UnsafePickle(
                    self.path,
                    f"its pickle uses the opcode {name}, which no checkpoint needs; refused",
                )
            method(arg)

    # Names and calls

    def _mention(self, module: object, name: object) -> object:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is no text")
        module, name = modern(module, name)
        found = resolve(module, name)
        if found is None:
            raise UnsafePickle(
                self.path,
                f"its pickle imports {printable(module, 80)}.{printable(name, 80)}, which is not "
                "on the list of harmless names; refused, nothing of it was run. Where you trust "
                "the file, save the network's state_dict() instead",
            )
        return found

    def _call(self, target: object, args: object) -> object:
        if not isinstance(args, tuple):
            raise ValueError("a call without a tuple of arguments")
        if isinstance(target, Builder):
            return target.build(*args)
        if isinstance(target, InertClass):
            return Inert(target, args)
        raise UnsafePickle(
            self.path, f"its pickle calls a {type(target).__name__}, which is no class; refused"
        )

    def _op_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self.stack.append(self._mention(module, name))

    def _op_stack_global(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._mention(module, name))

    def _op_reduce(self, _: object) -> None:
        args, target = self.stack.pop(), self.stack.pop()
        self.stack.append(self._call(target, args))

    _op_newobj = _op_reduce

    def _op_newobj_ex(self, _: object) -> None:
        kwargs, args, target = self.stack.pop(), self.stack.pop(), self.stack.pop()
        made = self._call(target, args)
        if isinstance(made, Inert) and isinstance(kwargs, dict):
            made.state.update(kwargs)
        self.stack.append(made)

    def _op_inst(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        target = self._mention(module, name)
        self.stack.append(self._call(target, tuple(self._to_mark())))

    def _op_obj(self, _: object) -> None:
        target, *args = self._to_mark()
        self.stack.append(self._call(target, tuple(args)))

    def _op_build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Inert):
            parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
            for part in parts:
                if isinstance(part, dict):
                    target.state.update({k: v for k, v in part.items() if isinstance(k, str)})
        elif not isinstance(target, OrderedDict):  # whose state is torch's own bookkeeping
            raise UnsafePickle(
                self.path, f"its pickle sets the state of a {type(target).__name__}; refused"
            )

    def _op_persid(self, arg: object) -> None:
        self.stack.append(self.persistent(arg))

    def _op_binpersid(self, _: object) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    # Containers

    def _to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _op_mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def _op_pop(self, _: object) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def _op_pop_mark(self, _: object) -> None:
        self._to_mark()

    def _op_dup(self, _: object) -> None:
        self.stack.append(self.stack[-1])

    def _op_memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._to_mark()))

    def _last(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) != count:
            raise IndexError("the stack is empty")
        self.stack[-count:] = [items]

    def _op_tuple1(self, _: object) -> None:
        self._last(1)

    def _op_tuple2(self, _: object) -> None:
        self._last(2)

    def _op_tuple3(self, _: object) -> None:
        self._last(3)

    def _op_list(self, _: object) -> None:
        self.stack.append(self._to_mark())

    def _op_dict(self, _: object) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._fill(items)

    def _op_frozenset(self, _: object) -> None:
        self.stack.append(frozenset(checked_key(v) for v in self._to_mark()))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Inert):
            raise ValueError(f"items appended to a {type(target).__name__}")

    def _op_append(self, _: object) -> None:
        self._extend([self.stack.pop()])

    def _op_appends(self, _: object) -> None:
        self._extend(self._to_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise ValueError("a key without a value")
        for raw, value in zip(items[::2], items[1::2], strict=True):
            key = checked_key(raw)
            if isinstance(target, dict):
                target[key] = value
            elif isinstance(target, Inert) and isinstance(key, str):
                target.state[key] = value
            elif not isinstance(target, Inert):
                raise ValueError(f"an item set on a {type(target).__name__}")

    def _op_setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _op_setitems(self, _: object) -> None:
        self._fill(self._to_mark())

    def _op_additems(self, _: object) -> None:
        items, target = self._to_mark(), self.stack[-1]
        if not isinstance(target, set):
            raise ValueError(f"items added to a {type(target).__name__}")
        target.update(checked_key(v) for v in items)
