"""TensorFlow SavedModels: turned into ONNX by tf2onnx, in a process of its own.

TensorFlow is no requirement of the kit: ``requirements-tensorflow.txt`` says what an environment
for it needs.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from handlers.errors import KitError
from repack.sources import onnx, savedmodel_graph
from repack.sources.errors import UnreadableFile, UnsupportedLayout, printable
from repack.sources.source import Source, sha256_of

MODEL = "saved_model.pb"
VARIABLE = "TENSORFLOW_PYTHON"
"""Names the Python that has TensorFlow and tf2onnx, where no flag does."""

OPSET = 17
"""The newest that TensorRT 8.6 reads, too; tf2onnx 1.17 writes up to 18."""

SIGNATURE = "serving_default"
UNSUPPORTED = re.compile(r"Tensorflow op \[(?P<name>[^:\]]+): (?P<op>\w+)\] is not supported")


def holds(path: Path) -> bool:
    """Whether ``path`` is the folder of a SavedModel."""
    return (path / MODEL).is_file()


def load(path: Path, python: Path | None = None) -> Source:
    """A SavedModel as ONNX; ``Source.module`` is None, ``Source.graph`` goes with this process.

    Its operators are looked at first: one that reaches outside the graph is refused before
    TensorFlow sees the file.

    Args:
        python: the interpreter that has TensorFlow and tf2onnx; None for ``TENSORFLOW_PYTHON`` or
            this one.

    Raises:
        KitError: no TensorFlow, or a model that tf2onnx or the check refuses.
    """
    try:
        data = (path / MODEL).read_bytes()
    except OSError as error:
        raise UnreadableFile(path / MODEL, f"cannot be read ({error.strerror})") from None
    savedmodel_graph.check(path, data)
    interpreter = _interpreter(path, python)
    room = Path(tempfile.mkdtemp(prefix="repack-savedmodel-"))
    atexit.register(shutil.rmtree, room, ignore_errors=True)
    target = room / "model.onnx"
    _convert(path, data, interpreter, room, target)
    made = onnx.load(target)
    name = printable(path.resolve().name, 80)
    return replace(
        made,
        family="savedmodel",
        network=name,
        path=path,
        sha256=_sha256(path),
        made_onnx=target,
    )


def _interpreter(path: Path, given: Path | None) -> Path:
    named = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if named is not None:
        found = shutil.which(named)
        if found is None:
            raise KitError(f"--tensorflow-python {printable(named)}: no program there")
        return Path(found)
    if all(importlib.util.find_spec(m) for m in ("tensorflow", "tf2onnx")):
        return Path(sys.executable)
    raise UnsupportedLayout(
        path,
        "a TensorFlow SavedModel, and TensorFlow is not installed here: make an environment with "
        "'python3 -m venv tf && tf/bin/pip install -r requirements-tensorflow.txt' and add "
        "--tensorflow-python tf/bin/python",
    )


def _convert(path: Path, data: bytes, interpreter: Path, room: Path, target: Path) -> None:
    """Runs tf2onnx on exactly the bytes that were checked, beside the model's own variables."""
    copy = room / "model"
    copy.mkdir()
    (copy / MODEL).write_bytes(data)
    for folder in ("variables", "assets"):
        if (path / folder).is_dir():
            (copy / folder).symlink_to((path / folder).resolve())
    command = [str(interpreter), "-I", "-m", "tf2onnx.convert", "--saved-model", str(copy)]
    command += ["--signature_def", SIGNATURE, "--opset", str(OPSET), "--output", str(target)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= dict.fromkeys(("HOME", "TMPDIR", "KERAS_HOME"), str(room))
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=room, env=environment
    )
    # tf2onnx ends well, too, where it left TensorFlow's own operators in the graph.
    if done.returncode or not target.is_file() or UNSUPPORTED.search(done.stderr):
        raise UnsupportedLayout(path, _reason(done.stderr, interpreter))


def _reason(output: str, interpreter: Path) -> str:
    """What tf2onnx's log says went wrong, in one line."""
    missing = re.search(r"No module named '?(?P<name>[\w.]+)", output)
    if missing:
        return f"{interpreter} has no {missing['name']}: install requirements-tensorflow.txt there"
    nodes = {m["name"].strip(): m["op"] for m in UNSUPPORTED.finditer(output)}
    if nodes:
        shown = ", ".join(f"{op} (node {name!r})" for name, op in list(nodes.items())[:3])
        return f"tf2onnx has no ONNX form of operator {shown}"
    last = (output.strip().splitlines() or ["no reason given"])[-1]
    return f"tf2onnx does not convert it ({last})"


def _sha256(folder: Path) -> str:
    """One hash over the names and contents of the folder's files."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()
