"""A candidate's engines: what is tried, what is found in the cache, and what is said of it.

Around a stand-in for TensorRT 8, which runs on a GPU only; ``tests/tensorrt_rtx`` builds for real.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.engines import build
from handlers.engines.job import KILLED, Answer
from repack.backends.tensorrt import engines, onnx_file
from repack.backends.tensorrt.engines import Builder, Engine
from repack.backends.tensorrt.onnx_file import PLUGINS, SOURCE
from repack.onnx import instance_norm
from tests.support import built
from tests.support.engines import CHAIN, MACHINE, Of8, on_its_way

ONE = {"x": ((1, 3, 8, 8),) * 3}


@pytest.fixture
def with_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU and TensorRT 8, as far as is asked before anything is built."""
    monkeypatch.setattr("handlers.engines.versions.library", lambda: Of8)
    monkeypatch.setattr("handlers.engines.versions.machine", lambda *_: MACHINE)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def test_what_the_plugin_cannot_do_is_built_without_it_and_said(
    with_8: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = on_its_way(tmp_path, "f16", built.volume())
    refused = {PLUGINS}

    def engine(builder: Builder, source: Path, profiles: Any) -> Engine:
        assert source.is_file()
        if source.name in refused:
            raise build.BuildFailed("no cuDNN")
        return Engine(f"{source.stem}-{profiles['x'][1][0]}.plan", "")

    monkeypatch.setattr(Builder, "engine", engine)

    def made() -> Any:
        return engines.build(given.request, "t", given.stage, given.work)

    found = made()
    assert found.files == ("t/engine-1.plan", "t/engine-4.plan")
    assert found.options.plugins == ()
    said = "".join(capsys.readouterr())
    assert "no cuDNN; trying TensorRT's normalisation layer instead of its plugin" in said
    assert "slower than its plugin" in said
    refused.clear()
    found = made()
    assert found.files == ("t/engine-plugins-1.plan", "t/engine-plugins-4.plan")
    assert found.options.plugins == (instance_norm.PLUGIN,)
    assert "".join(capsys.readouterr()) == ""
    refused.update((PLUGINS, SOURCE))
    with pytest.raises(build.BuildFailed, match="no cuDNN"):
        made()
    assert "slower" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("relaxed", ["", "no 16 bits for b"])
def test_what_could_not_be_had_in_16_bits_is_said(
    relaxed: str,
    with_8: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = on_its_way(tmp_path, "int8")
    of = {1: Engine("1.plan", ""), 4: Engine("4.plan", relaxed)}
    monkeypatch.setattr(Builder, "engine", lambda _, source, profiles: of[profiles["x"][1][0]])
    found = engines.build(given.request, "t", given.stage, given.work)
    assert found.files == ("t/1.plan", "t/4.plan")
    assert found.options.relaxed == bool(relaxed)
    assert found.options.float_layers == ()  # two layers
    said = "".join(capsys.readouterr())
    assert ("note: no 16 bits for b: layers next to inputs and outputs" in said) == bool(relaxed)
    (given.work / SOURCE).unlink()
    onnx_file.convert(CHAIN, given.work / SOURCE)
    found = engines.build(replace(given.request, model=CHAIN), "t", given.stage, given.work)
    assert len(found.options.float_layers) == 5


def test_a_cached_engine_still_says_what_was_relaxed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = on_its_way(tmp_path, "int8")
    runs = []

    def once(builder: Builder, job: build.Job, work: Path) -> Answer:
        runs.append(job.profiles)
        Path(job.out).write_bytes(b"ftrt")
        return Answer(1.0, "no 16 bits for b")

    monkeypatch.setattr(Builder, "build", once)
    builder = Builder(given.request, given.stage, MACHINE, None, False)
    for _ in range(2):
        found = builder.engine(given.work / SOURCE, ONE)
        assert found == Engine("model-b1.plan", "no 16 bits for b")
    assert runs == [ONE]
    assert "was built before" in "".join(capsys.readouterr())


def test_a_lack_of_host_memory_says_what_needs_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = on_its_way(tmp_path, "f16")

    def killed(*_: Any) -> Answer:
        raise build.BuildFailed(KILLED)

    monkeypatch.setattr("repack.backends.tensorrt.engines.run", killed)
    builder = Builder(given.request, given.stage, MACHINE, None, False)
    with pytest.raises(build.BuildFailed) as refused:
        builder.engine(given.work / SOURCE, ONE)
    said = str(refused.value)
    assert said.startswith("TensorRT f16 via onnx: the building process was killed")
    assert said.endswith("fewer sizes in --batch build side by side with less")
    assert not list(given.stage.glob("*.job"))
