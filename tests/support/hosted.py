"""Archives of a model that needs no library: it says how many bytes came, after a while."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.artefact import Artefact
from handlers.passport import Passport
from repack import archive

CODE = """
import json
import os
import time
from dataclasses import dataclass

from handlers.artefact import Options
from handlers.base import Handler
from handlers.errors import BadInput, RuntimeUnfit
from handlers.runtimes.base import Runtime


@dataclass(frozen=True, kw_only=True)
class Sizes(Options):
    batches: tuple[int, ...] = ()


class Nothing(Runtime):
    name = "nothing"
    options_type = Sizes

    def activate(self):
        if (self.folder / "broken").exists():
            raise RuntimeUnfit("this machine lacks a part that the model needs")

    def infer(self, inputs, every=False):
        return inputs


class Echo(Handler):
    def decode(self, data):
        if data == b"bad":
            raise BadInput("a bad body came; expected any other")
        return data

    def infer(self, items):
        if b"die" in items:
            os._exit(3)
        if b"hang" in items:
            time.sleep(1e6)
        time.sleep(self.passport.settings["sleep_ms"] / 1e3)
        return [len(items)] * len(items)

    def headers(self, item, result):
        return {"X-Batch": str(result)}

    def encode(self, item, result, accept):
        if accept == "text/plain":
            return b"%d" % len(item), "text/plain"
        answer = {"version": self.passport.version, "bytes": len(item), "pid": os.getpid()}
        return json.dumps(answer).encode(), "application/json"
"""


def echo(
    folder: Path,
    name: str = "echo",
    version: str = "1.0",
    sleep_ms: float = 0,
    batches: tuple[int, ...] = (),
    broken: bool = False,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Writes an archive; returns its path.

    Args:
        sleep_ms: how long a batch takes.
        batches: the batch sizes that it is said to be built for.
        broken: it passes every check and cannot be loaded.
        extra: further files, or other contents of the kit's, by path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        stage = Path(made) / "stage"
        archive.stage_handlers(stage)
        files = {"given.py": CODE, **({"broken": ""} if broken else {}), **(extra or {})}
        for path, text in files.items():
            (stage / path).write_text(text, encoding="utf-8")
        options: dict[str, Any] = {"batches": list(batches)} if batches else {}
        record = Passport(
            name=name,
            version=version,
            task="tensors",
            handler="given:Echo",
            source={},
            inputs=(),
            outputs=(),
            labels=(),
            settings={"sleep_ms": sleep_ms},
            artefacts={"accelerated": Artefact("nothing", (), "f32", {}, "tensors", options)},
            gate={},
            versions={},
            runtimes={"nothing": "given:Nothing"},
        )
        archive.finish_stage(stage, record)
        with archive.Draft(folder / f"{name}.mar") as draft:
            archive.pack(stage, draft.path)
            draft.commit()
        shutil.rmtree(stage)
    return folder / f"{name}.mar"
