"""Builds one engine in its own process, where a crash or a lack of memory harms nothing else.

    python -m handlers.engines.job JOB.json

Prints one JSON line: ``Answer``'s fields, or ``{"error": "one line"}``.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from handlers.engines.build import BuildFailed, Job, build
from handlers.errors import KitError

KILLED = "the building process was killed: mostly by the kernel, for want of host memory"


class Answer(NamedTuple):
    """What became of a job: how long it took, and ``Built.relaxed``."""

    seconds: float
    relaxed: str


def run(job: Job, folder: Path, stop: Callable[[], bool] = lambda: False) -> Answer:
    """Does a job in a process of its own.

    Args:
        folder: where the job's file goes.
        stop: asked every second whether to kill the process.

    Raises:
        BuildFailed: one line that says why there is no engine.
    """
    file = folder / "job.json"
    file.write_text(json.dumps(asdict(job)), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "handlers.engines.job", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=1)
                break
            except subprocess.TimeoutExpired:
                if stop():
                    process.kill()
    last = (out.strip().splitlines() or [""])[-1]
    answer = json.loads(last) if last.startswith("{") else {}
    if "seconds" in answer:
        return Answer(**answer)
    raise BuildFailed(answer.get("error") or ended(process.returncode, err))


def ended(code: int, err: str) -> str:
    """Why a building process gave no answer, in one line."""
    if code == -signal.SIGKILL:
        return KILLED
    last = (err.strip().splitlines() or ["nothing was said"])[-1]
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
    return f"the building process {how} ({last}); too little memory does that, too"


def main(path: Path) -> int:
    """Does the job in ``path``; 0 if the engine was written."""
    begin = time.monotonic()
    try:
        job = Job.read(path)
        built = build(job)
        Path(job.out).write_bytes(built.engine)
    except Exception as e:  # torch2trt and TensorRT raise many types for models they do not take
        first = (str(e).strip().splitlines() or [""])[0]
        said = first if isinstance(e, KitError) else f"{type(e).__name__}: {first}"
        print(json.dumps({"error": said}))
        return 1
    print(json.dumps(Answer(round(time.monotonic() - begin, 1), built.relaxed)._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
