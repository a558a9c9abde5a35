"""The command line's flags for a GPU, and the one line that a wrong one gets."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from handlers.errors import KitError
from repack import cli
from repack import pipeline as flow
from repack.options import GpuOptions


def read(*words: str) -> GpuOptions:
    parser = argparse.ArgumentParser()
    cli_gpu.add_flags(parser)
    return cli_gpu.read(parser.parse_args(words))


def test_without_flags_the_defaults() -> None:
    assert read() == GpuOptions()
    assert read().profile == {}


def test_batches_are_sorted_and_each_once() -> None:
    assert read("--batch", "16,1,4,4").batches == (1, 4, 16)


def test_a_profile_takes_the_place_of_batches() -> None:
    words = ["--min", "x=1x3x16x16", "--opt", "x=2x3x32x32", "--max", "x=4x3x64x64"]
    found = read(*words)
    assert found.batches == ()
    assert found.profile == {"x": ((1, 3, 16, 16), (2, 3, 32, 32), (4, 3, 64, 64))}


def test_the_others_are_taken_as_given(tmp_path: Path) -> None:
    words = ["--via", "onnx", "--level", "5", "--workspace", "64", "--rebuild"]
    found = read(*words, "--rebuild-on-load", "--engine-cache", str(tmp_path))
    assert (found.via, found.level, found.workspace_mb) == ("onnx", 5, 64)
    assert found.rebuild
    assert found.rebuild_on_load
    assert found.engine_cache == tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", "0"], "--batch '0': expected sizes such as 1,4,16"),
        (["--batch", "1,,4"], "--batch '1,,4': expected sizes"),
        (["--batch", "99999"], "--batch '99999': expected sizes"),
        (["--workspace", "0"], "--workspace 0: expected MiB, at least 1"),
        (["--min", "1x3"], "--min, --opt and --max belong together"),
        (["--min", "a=1x3", "--opt", "b=1x3", "--max", "a=1x3"], "name different inputs"),
        (["--min", "2x3", "--opt", "1x3", "--max", "4x3"], "expected each axis to grow or stay"),
        (["--min", "1x3", "--opt", "1x3x8", "--max", "4x3"], "expected each axis to grow or stay"),
        (["--min", "1xx3", "--opt", "1x3", "--max", "1x3"], "--min '1xx3': expected [NAME=]1x3"),
        (["--min", "0x3", "--opt", "1x3", "--max", "1x3"], "--min '0x3': expected [NAME=]1x3"),
    ],
)
def test_a_wrong_flag_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(KitError) as refused:
        read(*words)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_original_is_for_engines(tmp_path: Path) -> None:
    options = cli.parse(["--original", "any.onnx", "--model-store", str(tmp_path)])
    with pytest.raises(KitError, match="--original is for an engine of --weights"):
        flow.repack(options)
