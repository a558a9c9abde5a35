"""Small archives that the tests write themselves."""

from __future__ import annotations

import json
import os
from pathlib import Path

from handlers import passport as passports
from handlers.artefact import Artefact, TorchScriptOptions
from handlers.passport import Passport
from repack import archive
from repack.archive import MANIFEST, pack

ECHO = '''
class Handler:
    """Answers the length of each body."""

    def initialize(self, context):
        self.batch = context.system_properties["batch_size"]

    def handle(self, rows, context):
        return [b'{"bytes": %d}' % len(row.get("body") or b"") for row in rows]
'''


def write_archive(
    store: Path, name: str, code: str = ECHO, version: str = "1.0", task: str = "tensors"
) -> Path:
    """Writes an archive whose handler is the given Python code; returns its path."""
    stage = store / f".stage-{name}"
    (stage / "MAR-INF").mkdir(parents=True)
    (stage / "given.py").write_text(code)
    model = {"modelName": name, "modelVersion": version, "handler": "given.py"}
    manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": model}
    (stage / MANIFEST).write_text(json.dumps(manifest))
    hashes = {n: passports.sha256(stage / n) for n in ("given.py", MANIFEST)}
    passport = Passport(
        name=name,
        version=version,
        task=task,
        handler="given:Handler",
        source={},
        inputs=(),
        outputs=(),
        labels=(),
        settings={},
        artefacts={},
        gate={},
        versions={},
        files=hashes,
    )
    (stage / passports.FILE).write_text(passport.to_json())
    target = store / f"{name}.mar"
    pack(stage, target)
    for path in sorted(stage.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    stage.rmdir()
    return target


RECORD = Passport(
    name="m", version="1.0", task="tensors", handler="handlers.tensors:TensorHandler",
    source={}, inputs=(), outputs=(), labels=(), settings={},
    artefacts={
        "portable": Artefact(
            "torchscript", ("portable/model.pt",), "f32", {}, "tensors",
            TorchScriptOptions(outputs=("y",)),
        )
    },
    gate={}, versions={},
)  # fmt: skip


def build(folder: Path, name: str = "m.mar", record: Passport = RECORD) -> Path:
    """An archive as the kit writes it, with a weights file of random bytes."""
    stage = folder / f"stage-{name}"
    (stage / "portable").mkdir(parents=True)
    (stage / "portable" / "model.pt").write_bytes(os.urandom(3000))
    archive.stage_handlers(stage)
    archive.finish_stage(stage, record)
    with archive.Draft(folder / name) as draft:
        archive.pack(stage, draft.path)
        draft.commit()
    return folder / name
