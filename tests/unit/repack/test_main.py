"""``python -m repack``: one name for all commands of the package."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from deploy.torchserve.settings import ROOT
from repack import __main__ as commands


def called(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "repack", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_its_commands_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ([], ["-h"], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["repack", *words])
        assert commands.main() == 0
        shown = capsys.readouterr().out
        assert shown.startswith("usage: python -m repack COMMAND [--help]\n")
        for name, (_, text) in commands.COMMANDS.items():
            assert f"  {name:<9}{text}\n" in shown


@pytest.mark.parametrize("name", sorted(commands.COMMANDS))
def test_each_command_has_its_program(name: str) -> None:
    assert callable(import_module(commands.COMMANDS[name][0]).main)


def test_an_unknown_command_is_one_line() -> None:
    done = called("unpack", "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no command 'unpack'; there is pack, inspect, report, info\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pack", "Turn a checkpoint into a verified TorchServe archive."),
        ("inspect", "archive"),
        ("report", "report"),
    ],
)
def test_a_command_gets_the_words_behind_it(name: str, words: str) -> None:
    done = called(name, "--help")
    assert done.returncode == 0, done.stderr
    assert words in done.stdout
    assert done.stderr == ""


def test_a_commands_status_is_the_programs() -> None:
    done = called("inspect", "none.mar")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: none.mar: cannot be read")
