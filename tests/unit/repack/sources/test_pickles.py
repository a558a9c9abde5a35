"""Attack files: each is refused by name, and nothing in it ran."""

from __future__ import annotations

import builtins
import functools
import importlib
import operator
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from repack.sources import SourceError, UnreadableFile, UnsafePickle
from repack.sources.checkpoint import read_checkpoint
from repack.sources.pickle_names import Inert
from tests.support.loading import load
from tests.support.pickles import Attack, pickled, stack_global, text, zip_with

PROTOCOL_4 = b"\x80\x04"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that exists only if an attack ran."""
    return tmp_path / "the-attack-ran"


def attacks(marker: Path) -> dict[str, tuple[Attack, str]]:
    shell = f"touch {marker}"
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": (Attack(os.system, shell), f"{os.system.__module__}.system"),
        "eval": (Attack(builtins.eval, code), "builtins.eval"),
        "exec": (Attack(builtins.exec, code), "builtins.exec"),
        "subprocess": (Attack(subprocess.call, ["touch", str(marker)]), "subprocess.call"),
        "partial": (Attack(functools.partial, print), "functools.partial"),
        "operator": (Attack(operator.attrgetter, "x"), "operator.attrgetter"),
        "import": (Attack(importlib.import_module, "os"), "importlib.import_module"),
        "getattr": (Attack(builtins.getattr, "x", "upper"), "builtins.getattr"),
        "torch.load": (Attack(torch.load, str(marker)), "torch.serialization.load"),
        "hub": (Attack(torch.hub.load, "a/b", "c"), "torch.hub.load"),
        "open": (Attack(builtins.open, str(marker), "w"), "open"),
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
def test_a_call_is_refused_by_name_and_did_not_run(
    tmp_path: Path, marker: Path, name: str, form: str
) -> None:
    attack, mentioned = attacks(marker)[name]
    path = tmp_path / "evil.pt"
    if form == "plain":
        path.write_bytes(pickled(attack))
    else:
        content = {"model": attack, "epoch": 3}
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(UnsafePickle) as refusal:
        load(path)
    assert mentioned in str(refusal.value)
    assert str(refusal.value).startswith(str(path))
    assert "\n" not in str(refusal.value)
    assert not marker.exists()


def test_names_of_names_do_not_grow_without_end(tmp_path: Path) -> None:
    """Each of a chain would hold all before it: some KB of file, some TB of memory."""
    long = text("a" * 100)
    chain = b"cbuiltins\ngetattr\n" + b"p0\n0cmodels.yolo\nSegment\n"
    for _ in range(20):
        chain += b"p1\n0g0\ng1\n" + long + b"\x86R"
    path = tmp_path / "long.bin"
    path.write_bytes(b"\x80\x02" + chain + b".")
    with pytest.raises(UnsafePickle, match=r"getattr for a name of more than 500 letters"):
        load(path)


def test_the_attacks_do_run_in_a_plain_unpickler(marker: Path) -> None:
    """Without this the tests above could pass because of a harmless attack."""
    pickle.loads(pickled(attacks(marker)["os.system"][0]))  # noqa: S301
    assert marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cposix\nsystem\n(S'touch MARK'\ntR.",
        b"(S'touch MARK'\niposix\nsystem\n.",
        b"(cposix\nsystem\nS'touch MARK'\no.",
        b"\x80\x02cposix\nsystem\n" + text("touch MARK") + b"\x85\x81.",
        PROTOCOL_4 + stack_global("posix", "system") + text("touch MARK") + b"\x85R.",
        PROTOCOL_4 + stack_global("posix", "system") + text("touch MARK") + b"\x85}\x92.",
    ],
    ids=["GLOBAL", "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "NEWOBJ_EX"],
)
def test_every_opcode_that_calls_is_refused(tmp_path: Path, marker: Path, data: bytes) -> None:
    path = tmp_path / "evil.bin"
    path.write_bytes(data.replace(b"MARK", b"m"))
    with pytest.raises(UnsafePickle, match=r"posix\.system"):
        load(path)
    with pytest.raises(UnsafePickle, match=r"posix\.system"):
        load(zip_with(tmp_path / "evil.pt", data))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch.serialization", "os.system"),
        ("torch", "serialization.os.system"),
        ("torch.nn.modules.module", "functools.partial"),
        ("models.yolo", "Detect.__init__.__globals__"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch.nn.modulesx", "Linear"),
        ("torch.nn.modules.", "Linear"),
        ("modelsx", "Net"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("torch._utils", "_import_dotted_name"),
        ("__main__", "Net"),
        ("builtins", "object"),
        ("", ""),
    ],
)
def test_dotted_and_neighbouring_names_are_refused(tmp_path: Path, module: str, name: str) -> None:
    data = PROTOCOL_4 + stack_global(module, name) + b")R."
    with pytest.raises(UnsafePickle, match="not on the list"):
        load(zip_with(tmp_path / "evil.pt", data))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02K\x05)R.",  # a number called
        PROTOCOL_4 + stack_global("torch", "float16") + b")R.",
        PROTOCOL_4 + stack_global("torch", "HalfStorage") + b")R.",
        PROTOCOL_4 + stack_global("torch._utils", "_rebuild_tensor_v2") + b"}b.",
        PROTOCOL_4 + stack_global("models.yolo", "Detect") + b"}b.",
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x05\x97.",  # an out-of-band buffer
    ],
    ids=[
        "int",
        "dtype",
        "storage",
        "BUILD on a builder",
        "BUILD on a class",
        "EXT1",
        "NEXT_BUFFER",
    ],
)
def test_other_ways_to_reach_something_are_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UnsafePickle, match="refused"):
        load(zip_with(tmp_path / "evil.pt", data))


def test_a_call_of_an_inert_class_only_remembers_its_arguments(tmp_path: Path) -> None:
    data = PROTOCOL_4 + stack_global("ultralytics.utils", "system") + text("touch x") + b"\x85R."
    found = read_checkpoint(zip_with(tmp_path / "inert.pt", data))
    assert isinstance(found, Inert)
    assert found.args == ("touch x",)
    assert "ultralytics.utils" not in sys.modules


def test_a_state_setter_on_an_inert_object_is_data(tmp_path: Path) -> None:
    inert = stack_global("models.yolo", "Detect") + b")\x81"
    state = b"}" + text("__setstate__") + stack_global("models.yolo", "x") + b"s"
    found = read_checkpoint(zip_with(tmp_path / "inert.pt", PROTOCOL_4 + inert + state + b"b."))
    assert isinstance(found, Inert)
    assert set(found.state) == {"__setstate__"}


def tensor_pickle(size: object, stride: object, offset: int = 0, count: int = 4) -> bytes:
    """A tensor over storage "0" whose numbers are the test's."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += pickled(count)[2:-1] + b"tQ"
    args = storage + b"".join(pickled(v)[2:-1] for v in (offset, size, stride, False, None))
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + args + b"tR."


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_tensor_of_the_tests_own_making_is_read(tmp_path: Path) -> None:
    found = read_checkpoint(zip_with(tmp_path / "t.pt", tensor_pickle((2, 2), (1, 2)), {"0": FOUR}))
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    "numbers",
    [
        {"size": (5,), "stride": (1,)},
        {"size": (2,), "stride": (4,)},
        {"size": (4,), "stride": (1,), "offset": 1},
        {"size": (4,), "stride": (1,), "offset": -1},
        {"size": (2,), "stride": (-1,), "offset": 2},
        {"size": (2**62, 2**62), "stride": (0, 0)},
        {"size": (2**41,), "stride": (0,)},
        {"size": (-1,), "stride": (1,)},
        {"size": (4,), "stride": (1,), "count": 5},
        {"size": (4,), "stride": (1,), "count": 2**60},
        {"size": (4,), "stride": (1,), "count": -4},
        {"size": (4,), "stride": ()},
        {"size": [4], "stride": [1]},
        {"size": (4.0,), "stride": (1,)},
    ],
    ids=str,
)
def test_numbers_that_lie_about_a_tensor_are_refused(
    tmp_path: Path, numbers: dict[str, Any]
) -> None:
    path = zip_with(tmp_path / "lie.pt", tensor_pickle(**numbers), {"0": FOUR})
    with pytest.raises(UnreadableFile):
        load(path)


def test_a_tensor_larger_than_its_data_is_refused_when_used(tmp_path: Path) -> None:
    """Legal (an expanded view), so it is read; but nothing is ever allocated for it."""
    tensor = tensor_pickle((2**39,), (0,))[2:-1]
    data = b"\x80\x02}" + text("model.0.conv.weight") + tensor + b"s."
    with pytest.raises(SourceError, match="claims shape"):
        load(zip_with(tmp_path / "bomb.pt", data, {"0": FOUR}))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",  # lists within lists
        b"\x80\x02)" + b"\x85" * 200_000 + b".",  # tuples within tuples
        b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",  # the same as a key
        b"\x80\x02(" + b")" + b"\x85" * 200_000 + b"\x91.",  # the same in a set
        b"\x80\x02B\xff\xff\xff\x7fabc.",  # 2 GB of bytes announced
        b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",  # 2**64 bytes announced
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",  # a number of 2 GB
        b"\x80\x02r\xff\xff\xff\xff.",  # memo slot 2**32 of an empty stack
        b"\x80\x02Nr\xff\xff\xff\x7fN0.",
        b"\x80\x02.",
        b"\x80\x02N",
        b"\x80\x02a.",
        b"\x80\x02t.",
        b"\x80\x02h\x07.",
        b"\x80\x02Q.",
        b"\x80\x02NQ.",
        b"S'\\q'\n.",
        b"",
    ],
    ids=range(18),
)
def test_bombs_and_damage_end_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceError) as refusal:
        load(zip_with(tmp_path / "bomb.pt", data))
    assert "\n" not in str(refusal.value)


def test_a_compressed_record_is_refused(tmp_path: Path) -> None:
    data = b"\x80\x02" + text("x" * 10_000_000) + b"."
    path = zip_with(tmp_path / "bomb.pt", data, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadableFile, match="compressed"):
        load(path)


def test_control_characters_of_the_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    data = PROTOCOL_4 + stack_global("evil\x1b[2J\nmodule", "x\u202ey") + b")R."
    with pytest.raises(UnsafePickle) as refusal:
        load(zip_with(tmp_path / "evil.pt", data))
    assert str(refusal.value).isprintable()


def test_every_truncation_and_flipped_byte_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"a": torch.ones(3), "b": {"c": [1, 2.5, "x", None]}}, path)
    whole = path.read_bytes()
    broken = tmp_path / "broken.pt"
    for i in range(0, len(whole), 7):
        flipped = whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1 :]
        for data in (whole[:i], flipped):
            broken.write_bytes(data)
            with pytest.raises(SourceError) as refusal:
                load(broken)
            assert str(refusal.value).isprintable()
