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
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from handlers.engines import build, versions
from handlers.errors import KitError

KILLED = "the building process was killed: mostly by the kernel, for want of host memory"


@dataclass(frozen=True)
class Job:
    """One engine to build; what its JSON file holds.

    Attributes:
        onnx: the model's file.
        out: where the engine goes.
        precision, profiles, level, workspace: as for ``build.EngineSpec``.
        timing: file of TensorRT's kernel timings, read where it is there and written.
        int8: file that ``versions.Int8`` reads; None for none.
        gpu: number of the GPU to build on.
        network: "module:function", called with TensorRT, a ``build.Log`` and the job: gives what
            fills an empty network, in the place of the ONNX file; None for that file.
        calibrator: "module:function", called with TensorRT and the job: gives TensorRT 8's
            calibrator; None for none.
        module, outputs, calibration: for these two: the module's file, the names of its outputs,
            and the file of the inputs to calibrate on.
    """

    onnx: str
    out: str
    precision: str
    profiles: build.Profiles
    level: int
    workspace: int
    timing: str
    int8: str | None = None
    gpu: int = 0
    network: str | None = None
    calibrator: str | None = None
    module: str | None = None
    outputs: tuple[str, ...] = ()
    calibration: str | None = None

    @classmethod
    def read(cls, path: Path) -> Job:
        """From the file that ``run`` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        profiles = {k: tuple(map(tuple, shapes)) for k, shapes in told.pop("profiles").items()}
        return cls(profiles=profiles, **told)  # type: ignore[arg-type]

    def engine(self) -> build.Built:
        """Builds the engine, here.

        Raises:
            KitError: as ``build.from_onnx``; torch2trt and TensorRT raise other types, too.
        """
        if self.gpu:
            import torch

            torch.cuda.set_device(self.gpu)
            torch.zeros(1, device="cuda")  # TensorRT takes the context that is current
        trt = versions.library()
        int8 = versions.Int8.read(Path(self.int8) if self.int8 else None)
        spec = build.EngineSpec(self.precision, self.profiles, self.level, self.workspace, int8)
        calibrator = _function(self.calibrator)(trt, self) if self.calibrator else None
        if not self.network:
            return build.from_onnx(Path(self.onnx), spec, calibrator, Path(self.timing))
        log = build.Log(trt)
        fill = _function(self.network)(trt, log, self)
        return build.Built(build.build(trt, log, fill, spec, calibrator, Path(self.timing)))


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)


class Answer(NamedTuple):
    """What became of a job: how long it took, and ``build.Built.relaxed``."""

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
    raise build.BuildFailed(answer.get("error") or ended(process.returncode, err))


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
        built = job.engine()
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
