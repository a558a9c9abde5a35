"""Settings that qpstest --tune --apply keeps in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.torchserve import defaults
from deploy.torchserve.settings import cores, parse
from handlers.errors import KitError
from tests.support.archives import write_archive

FOUND = {"workers": 3, "threads": 2, "batch_size": 4, "max_batch_delay": 7}


def keep(store: Path, record: Any) -> None:
    defaults.kept_file(store, "fd1").write_text(json.dumps(record))


def test_they_are_the_defaults_of_that_model_on_such_a_machine(tmp_path: Path) -> None:
    write_archive(tmp_path, "fd1")
    keep(tmp_path, {"cores": cores(), "settings": FOUND})
    asked = ["--model-store", str(tmp_path)]
    _, settings = parse(asked, {})
    assert (settings.workers, settings.threads) == (3, 2)
    assert (settings.batch_size, settings.max_batch_delay) == (4, 7)
    assert parse([*asked, "--workers", "1"], {})[1].workers == 1
    assert parse(asked, {"BATCH_SIZE": "2"})[1].batch_size == 2
    assert parse([*asked, "--name", "other"], {})[1].batch_size == 1
    keep(tmp_path, {"cores": cores() + 1, "settings": FOUND})
    assert parse(asked, {})[1].batch_size == 1


@pytest.mark.parametrize(
    "record", [[], {}, {"cores": 1}, {"cores": 1, "settings": {"workers": "x"}}]
)
def test_a_damaged_file_is_named(tmp_path: Path, record: Any) -> None:
    keep(tmp_path, record)
    with pytest.raises(KitError, match=r"fd1.settings.json is damaged: remove it"):
        defaults.kept(tmp_path, "fd1", 1)
