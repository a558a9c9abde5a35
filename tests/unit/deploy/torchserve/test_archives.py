"""Archives that another program made: left out by name, or taken without proof."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from deploy.torchserve.archives import GUEST, survey
from repack.archive import MANIFEST

CODE = "def handle(rows, context):\n    return rows\n"


def stock(store: Path, **members: str) -> None:
    """An archive as torch-model-archiver lays one out."""
    model = {"modelName": "g", "modelVersion": "2.0", "handler": "h.py"}
    files = {MANIFEST: json.dumps({"runtime": "python", "model": model}), "h.py": CODE, **members}
    with zipfile.ZipFile(store / "g.mar", "w") as z:
        for name, text in files.items():
            z.writestr(name, text)


def test_a_guest_is_refused_with_what_to_do_or_taken_where_asked(tmp_path: Path) -> None:
    stock(tmp_path)
    served, (line,) = survey(tmp_path)
    assert not served
    assert line.startswith("g.mar: no passport.json: not made by this kit")
    assert line.endswith("bash run.sh --guests")
    (guest,), refused = survey(tmp_path, guests=True)
    assert not refused
    assert (guest.name, guest.version, guest.task) == ("g", "2.0", GUEST)
    assert (guest.handler, guest.passport, guest.foreign) == ("h.py", None, "")


@pytest.mark.parametrize(
    ("member", "text", "said"),
    [
        ("../h.py", CODE, "points outside the archive"),
        (MANIFEST, "{}", "names no model with a handler"),
        (MANIFEST, '{"model": {"handler": "h", "modelVersion": "1/2"}}', "version '1/2'"),
        (MANIFEST, '{"runtime": "LSP", "model": {"handler": "h"}}', "runtime 'LSP'"),
        ("passport.json", "{}", "passport format None"),
    ],
)
def test_a_guest_that_is_unfit_is_refused(
    tmp_path: Path, member: str, text: str, said: str
) -> None:
    stock(tmp_path, **{member: text})
    served, (line,) = survey(tmp_path, guests=True)
    assert not served
    assert said in line


def test_a_damaged_guest_is_refused(tmp_path: Path) -> None:
    stock(tmp_path)
    path = tmp_path / "g.mar"
    path.write_bytes(path.read_bytes().replace(b"return rows", b"return r0ws", 1))
    served, (line,) = survey(tmp_path, guests=True)
    assert not served
    assert "Bad CRC-32 for file 'h.py'" in line
