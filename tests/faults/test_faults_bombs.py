"""Row 46: small files that take hours or all memory to read or to run: one line, within a bound."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from repack.sources import SourceError
from tests.parity import monai_configs
from tests.support import made
from tests.support.loading import load
from tests.support.odd_models import BOOL, FLOAT, INT64, saved
from tests.support.pickles import zip_with

MODULUS = sys.hash_info.modulus
COUNT = 20_000
"""Keys that hash alike: 10 s and more where each is compared with all before it."""


def number(value: int) -> bytes:
    """The opcode that pushes a whole number of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def pair(bits: int) -> bytes:
    """The opcodes of a tuple of -1 and -2, which hash alike."""
    minus = (b"J\xff\xff\xff\xff", b"J\xfe\xff\xff\xff")
    return b"(" + b"".join(minus[bits >> k & 1] for k in range(15)) + b"t"


NUMBERS = [number(MODULUS * i) for i in range(1, COUNT)]
COLLIDING = {
    "keys": (b"}(" + b"N".join(NUMBERS) + b"Nu.", "a number of 61 bits as a key"),
    "tuples": (b"}(" + b"N".join(map(pair, range(COUNT))) + b"Nu.", "a tuple as a key"),
    "a set": (b"\x8f(" + b"".join(NUMBERS) + b"\x90.", "a number of 61 bits as a key"),
    "the memo": (
        b"N" + b"".join(b"p%d\n" % (MODULUS * i) for i in range(1, COUNT)) + b".",
        "memo slot of 61 bits",
    ),
}


def refused(path: Path, words: str) -> None:
    """In one line, in a few seconds."""
    begin = time.process_time()
    with pytest.raises(SourceError) as refusal:
        load(path)
    assert time.process_time() - begin < 4
    assert words in str(refusal.value)
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("kind", COLLIDING)
def test_row_46_a_pickle_of_colliding_keys(tmp_path: Path, kind: str) -> None:
    data, words = COLLIDING[kind]
    refused(zip_with(tmp_path / "colliding.pt", b"\x80\x04" + data), words)


def bundle(folder: Path, **inferer: Any) -> Path:
    """A MONAI bundle's configuration; further sections are for references."""
    config = copy.deepcopy(monai_configs.config("unet"))
    sections = {k: inferer.pop(k) for k in list(inferer) if k.startswith("s")}
    config["inferer"].update(inferer)
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text(json.dumps(config | sections))
    metadata = json.dumps(monai_configs.metadata("unet"))
    (folder / "configs" / "metadata.json").write_text(metadata)
    return folder


def chain(link: str, last: object) -> dict[str, Any]:
    """Sections of which each mentions the next one, as ``link`` says."""
    return {f"s{i}": link.replace("next", f"s{i + 1}") for i in range(8)} | {"s8": last}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (chain("$" + "+".join(["@next"] * 90), [1]), "more than 1000 letters or items"),
        (chain("$" + "+".join(["@next"] * 90), "x"), "more than 1000 letters or items"),
        (chain("$" + "*".join(["@next"] * 90), 7), "a number over 9223372036854775808"),
        (chain("$[" + ",".join(["@next"] * 90) + "]", 1), "more than 50,000 values"),
        (chain("$" + "-".join(["@next"] * 90), 0), "more than 50,000 values"),
        ({"s0": "$" + "(" * 3000 + "1" + ")" * 3000}, "an expression of 6,002 letters"),
    ],
    ids=["lists", "texts", "products", "nested lists", "differences", "brackets"],
)
def test_row_46_expressions_of_a_bundle_that_explode(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    refused(bundle(tmp_path / "bundle", roi_size="@s0", **sections), words)


def test_row_46_lists_of_references_explode_too(tmp_path: Path) -> None:
    lists = {f"s{i}": [f"@s{i + 1}"] * 90 for i in range(8)} | {"s8": 1}
    refused(bundle(tmp_path / "bundle", roi_size="@s0", **lists), "more than 50,000 values")


def test_row_46_colliding_keys_of_a_yaml_file(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle")
    (folder / "configs" / "inference.json").unlink()
    text = "".join(f"{MODULUS * i}: 1\n" for i in range(1, COUNT))
    (folder / "configs" / "inference.yaml").write_text(text)
    refused(folder, "at most 131,072: write it as JSON")


def loop(path: Path, kept: int) -> Path:
    """An ONNX file whose loop never ends; each turn keeps so many values."""
    turn = helper.make_tensor_value_info("turn", INT64, [])
    go, still = (helper.make_tensor_value_info(n, BOOL, []) for n in ("go", "still"))
    piece = helper.make_tensor_value_info("piece", FLOAT, ["n"])
    nodes = [
        helper.make_node("Identity", ["go"], ["still"]),
        helper.make_node("Expand", ["one", "much"], ["piece"]),
    ]
    if not kept:  # a value that is handed on
        nodes[1] = helper.make_node("Identity", ["last"], ["piece"])
    handed = [] if kept else [helper.make_tensor_value_info("last", FLOAT, ["n"])]
    body = helper.make_graph(nodes, "body", [turn, go, *handed], [still, piece])
    given = ["", "true"] if kept else ["", "true", "one"]
    return saved(
        path,
        [
            helper.make_node("Loop", given, ["pieces"], "loop", body=body),
            helper.make_node("Relu", ["x"], ["y"], "relu"),
        ],
        [("x", FLOAT, ["batch", 4])],
        [("y", FLOAT, ["batch", 4]), ("pieces", FLOAT, ["turns", "n"] if kept else ["n"])],
        true=np.array(True),
        one=np.ones(1, np.float32),
        much=np.array([max(kept, 1)]),
    )


class Endless(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() < 1e30):
            x = x + 0.0
        return x


def endless(folder: Path) -> Path:
    path = folder / "endless.torchscript"
    torch.jit.save(torch.jit.script(Endless()), str(path))
    return path


PACK = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (5 << 30, 5 << 30))  # where the kit's bound is not kept
import onnx, onnxruntime
from repack import cli, model_repack, patience, pipeline
for seconds, path in zip(sys.argv[2::2], sys.argv[3::2]):
    if os.fork():
        continue
    os.dup2(os.open(path + ".said", os.O_WRONLY | os.O_CREAT), 2)
    patience.ANSWER_S, patience.MEMORY = float(seconds), 3 << 29
    sys.argv[1:] = ["--weights", path, "--name", "m", "--input-shape", "x=batchx4"]
    sys.argv += ["--model-store", os.path.join(os.path.dirname(path), "store")]
    status = model_repack.main()
    os._exit(status)
while True:
    try:
        print(os.waitstatus_to_exitcode(os.wait()[1]))
    except ChildProcessError:
        break
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit as a whole
def test_row_46_a_model_that_never_answers_or_takes_all_memory(tmp_path: Path) -> None:
    """Three repacks side by side, with shorter bounds than the kit's own."""
    cases = {
        loop(tmp_path / "endless.onnx", kept=0): (1, "has not answered one input within 1 s"),
        endless(tmp_path): (1, "has not answered one input within 1 s"),
        loop(tmp_path / "greedy.onnx", kept=1 << 22): (60, "for one input; at most 1,536.0 MiB"),
    }
    room = tmp_path / "room"
    room.mkdir()
    given = [str(x) for path, (seconds, _) in cases.items() for x in (seconds, path)]
    run = subprocess.Popen(
        [sys.executable, "-c", PACK, str(made.ROOT), *given],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(room)},
        start_new_session=True,
    )  # fmt: skip
    with run:
        try:
            statuses, _ = run.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
    assert statuses.split() == ["1"] * len(cases)
    for path, (_, words) in cases.items():
        said = Path(f"{path}.said").read_text()
        line = said.splitlines()[-1]
        assert line.startswith(f"error: {path}: the model ")
        assert words in line
        assert "Traceback" not in said
    assert list(room.iterdir()) == []
    assert not (tmp_path / "store").exists()
