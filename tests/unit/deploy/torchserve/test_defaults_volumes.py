"""Limits of the server where the store holds a segmentation archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.torchserve import config
from deploy.torchserve.settings import make, parse
from handlers.memory import LIMIT_VARIABLE, machine_memory, memory_limit
from handlers.payload import MAX_BODY_VARIABLE
from tests.support.archives import write_archive


def test_volumes_change_the_defaults_and_nothing_that_was_asked_for(tmp_path: Path) -> None:
    write_archive(tmp_path, "fd1", task="detection")
    (tmp_path / "damaged.mar").write_bytes(b"PK\x03\x04 no archive")
    flags = ["--model-store", str(tmp_path)]
    _, plain = parse(flags, {})
    assert (plain.max_request_mb, plain.response_timeout) == (64, 120)
    write_archive(tmp_path, "seg", task="segmentation")
    _, volumes = parse(flags, {})
    assert (volumes.max_request_mb, volumes.response_timeout) == (512, 900)
    _, asked = parse([*flags, "--max-request-mb", "64"], {"RESPONSE_TIMEOUT": "30"})
    assert (asked.max_request_mb, asked.response_timeout) == (64, 30)
    _, nothing = parse(["--model-store", str(tmp_path / "nothing")], {})
    assert nothing.max_request_mb == 256


def test_workers_are_told_both_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make({"max_request_mb": "3", "volume_memory_mb": "77"})
    found = config.environment(settings, tmp_path, {})
    assert found[MAX_BODY_VARIABLE] == str(3 << 20)
    monkeypatch.setenv(LIMIT_VARIABLE, found[LIMIT_VARIABLE])
    assert memory_limit() == 77 << 20


def test_the_memory_of_the_machine_is_shared_by_the_workers() -> None:
    one, three = make({"workers": "1"}), make({"workers": "3"})
    assert 0.7 < (one.volume_memory_mb << 20) / machine_memory() <= 0.75
    assert three.volume_memory_mb == pytest.approx(one.volume_memory_mb / 3, abs=1)
