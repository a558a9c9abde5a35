"""The Dockerfiles as text: the linter's rules, and what must hold on any base."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.boxes import ROOT, UID

FILES = ("Dockerfile_base", "Dockerfile_torchserve_tensorrt")
HOSTS = {"nvcr.io", "download.pytorch.org", "pypi.nvidia.com", "github.com"}
"""The only hosts that may be named: NVIDIA's registry, and public indexes in examples."""


def instructions(name: str) -> list[str]:
    """The file's instructions, each in one line, without comments."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / name).read_text(), flags=re.M)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [line.strip() for line in joined.splitlines() if line.strip()]


def having(name: str, word: str) -> list[str]:
    return [line.partition(" ")[2] for line in instructions(name) if line.startswith(word + " ")]


@pytest.mark.parametrize("name", FILES)
def test_hadolint_has_nothing_to_say(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_rules_are_ignored_one_by_one_and_only_for_apt_versions(name: str) -> None:
    ignored = re.findall(r"hadolint\s+(.*)", (ROOT / name).read_text())
    assert set(ignored) <= {"ignore=DL3008"}


def test_the_linter_would_speak(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd / && apt-get install x\n")
    done = subprocess.run([linter, tmp_path / "Dockerfile"], capture_output=True, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("name", FILES)
def test_every_stage_starts_from_the_argument(name: str) -> None:
    bases = [line.split(" ")[0] for line in having(name, "FROM")]
    assert bases
    assert set(bases) == {"${BASE}"}
    assert instructions(name)[0].startswith("ARG BASE=")


def test_the_default_base_is_a_pinned_tag() -> None:
    assert re.fullmatch(r"BASE=nvcr\.io/nvidia/tensorrt:\d\d\.\d\d-py3", having(FILES[0], "ARG")[0])


@pytest.mark.parametrize("name", FILES)
def test_no_other_host_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    named = set(re.findall(r"https?://([^/\s:\"]+)", text)) | set(
        re.findall(r"=([\w.-]+\.\w+)/", text)
    )
    assert named <= HOSTS


def test_pip_settings_are_arguments_of_the_stage_that_is_not_kept() -> None:
    lines = instructions("Dockerfile_base")
    last = max(i for i, line in enumerate(lines) if line.startswith("FROM "))
    for setting in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        assert f'ARG {setting}=""' in lines[:last]
    assert not [line for line in lines[last:] if "PIP_" in line or "secret" in line]


def test_what_run_sh_installs_is_installed_and_travels() -> None:
    asked = re.findall(r'"\$venv" (.*) ;;', (ROOT / "run.sh").read_text())[-1].split()
    copied = having("Dockerfile_base", "COPY")[0].split()[:-1]
    assert copied == asked == ["requirements.txt", "requirements-no-deps.txt"]
    (run,) = [line for line in having("Dockerfile_base", "RUN") if "-r /tmp/" in line]
    assert all(f"-r /tmp/{name}" in run for name in asked)
    assert {f"!{name}" for name in asked} <= set((ROOT / ".dockerignore").read_text().splitlines())


def test_the_server_is_not_root_and_its_number_is_fixed() -> None:
    name = "Dockerfile_torchserve_tensorrt"
    assert having(name, "USER") == [f"{UID}:{UID}"]
    lines = instructions(name)
    after = lines[lines.index(f"USER {UID}:{UID}") :]
    assert not [line for line in after if line.startswith(("RUN ", "COPY "))]


def test_what_an_engine_needs_to_know() -> None:
    name = "Dockerfile_torchserve_tensorrt"
    assert having(name, "EXPOSE") == ["8080 7070"]
    assert having(name, "VOLUME") == ["/models"]
    assert having(name, "STOPSIGNAL") == ["SIGTERM"]
    assert len(having(name, "HEALTHCHECK")) == 1
    [entry] = having(name, "ENTRYPOINT")
    assert entry.startswith('["tini", "--", ')
    assert entry.endswith('"deploy/torchserve/serve.py", "--foreground"]')


def test_what_is_copied_is_an_allow_list() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    for folder in ("handlers", "repack", "deploy", "examples", "qpstest"):
        assert f"!{folder}" in rules
        assert (ROOT / folder).is_dir()
