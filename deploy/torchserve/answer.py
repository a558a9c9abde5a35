"""What the user reads: one line per step, the answer, and the command to try next."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from deploy.torchserve.client import key_file
from deploy.torchserve.settings import ROOT, Settings, reachable
from repack.tasks import TASKS

SHOWN_ITEMS = 24
PICTURES = ROOT / "examples" / "pictures"


def say(step: str, text: str) -> None:
    """One line of the flow."""
    print(f"{step:<9}{text}", flush=True)


def sample_for(task: str) -> Path | None:
    """A request of the kit's own that a task's models answer; None where there is none."""
    known = TASKS.get(task)
    return min(PICTURES.glob("*.jpg"), default=None) if known and known.takes_pictures else None


def pretty(body: bytes) -> str:
    """A JSON answer for a person: a line per detection, and not too many of them."""
    try:
        answer = json.loads(body)
    except ValueError:
        return f"{len(body)} bytes"
    if not isinstance(answer, dict):
        return json.dumps(answer)
    lines = []
    for key, value in answer.items():
        if isinstance(value, list) and value:
            items = [json.dumps(item) for item in value]
            if len(items) > SHOWN_ITEMS:
                items = [*items[:SHOWN_ITEMS], f"... and {len(items) - SHOWN_ITEMS} more"]
            lines.append(f"  {json.dumps(key)}: [\n    " + ",\n    ".join(items) + "\n  ]")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}"


def curl_line(settings: Settings, picture: Path) -> str:
    """The command that sends a picture, with the token where one is needed."""
    url = f"http://{reachable(settings.host)}:{settings.port}/predictions/{settings.name}"
    line = f"curl {url} -T {shlex.quote(short(picture))}"
    if settings.needs_tokens:
        keys = short(key_file(settings))
        read = f"import json; print(json.load(open({keys!r}))['inference']['key'])"
        line += f' -H "Authorization: Bearer $(python3 -c {shlex.quote(read)})"'
    return line


def short(path: Path) -> str:
    """A path relative to the working folder, where that is shorter."""
    return min(os.path.relpath(path), str(path), key=len)
