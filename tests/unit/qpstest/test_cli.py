"""How the tester ends."""

from __future__ import annotations

import signal

import pytest

from qpstest import cli
from qpstest.measure import PartlyMeasuredError


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), PartlyMeasuredError({})])
def test_an_interrupt_is_one_word_whatever_was_being_measured(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--tune ended in a traceback where it was interrupted in the middle of a measurement."""

    def run(*_: object) -> int:
        raise raised

    monkeypatch.setattr(cli, "_run", run)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert cli.main(["--tune"]) == cli.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
