"""A command of the kit in a process of its own that has its packages already.

Importing torch and the rest is two thirds of what packing a small model takes, and the tests pack
a hundred. Each command is a fork of a process that has imported them and done nothing else; it gets
its own folder, environment, output and exit status. The commands as a user starts them are tested,
too: README, ``run.sh``, interrupts, ``test_model_repack``.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

HEAVY = ("repack.pipeline", "networkx", "jinja2")


@cache
def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *HEAVY])
    return context


def run(
    module: str, flags: Sequence[str], environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """What ``python -m module flags`` does, whose module has a ``main`` that returns the status."""
    with tempfile.TemporaryDirectory() as room:
        files = [Path(room) / "out", Path(room) / "err"]
        given = (module, list(flags), dict(environment), folder, files)
        process = _context().Process(target=_command, args=given)
        process.start()
        process.join()
        out, err = (file.read_text(encoding="utf-8") for file in files)
        code = process.exitcode
        process.close()
    assert code is not None
    return subprocess.CompletedProcess([module, *flags], code, out, err)


def _command(
    module: str, flags: list[str], environment: dict[str, str], folder: Path, files: list[Path]
) -> None:
    for number, file in enumerate(files, 1):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    sys.argv = [module, *flags]
    status: object = 1
    try:
        status = importlib.import_module(module).main()
    except SystemExit as e:
        status = e.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()  # what a process that was forked leaves out
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)
