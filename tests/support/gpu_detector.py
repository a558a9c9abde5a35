"""The shipped detector's archive, unpacked, and pictures for it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from handlers.context import LocalContext
from handlers.entry import Entry
from tests.support.built import PICTURES

SAMPLE = sorted(PICTURES.glob("*.jpg"))[0]


class Served:
    """An unpacked archive, answering."""

    def __init__(self, folder: Path, artefact: str = "accelerated", shared: bool = False):
        headers = {"accept": "application/json"}
        self.context = LocalContext(folder, artefact, headers=headers, shared=shared)
        self.entry = Entry()
        self.entry.initialize(self.context)

    def ask(self, *files: bytes) -> tuple[list[int], list[dict[str, Any]]]:
        answers = self.entry.handle([{"body": data} for data in files], self.context)
        return self.context.statuses, [json.loads(a) for a in answers]


def save(picture: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, **options)
    return out.getvalue()
