"""The command line: its flags become options, its help says what there is, mistakes are a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.errors import KitError
from repack import cli, flags, pipeline
from repack.backends import BACKENDS, PRECISIONS
from repack.options import ROOT, ClassifierOptions, GpuOptions, Options, SourceOptions
from repack.tasks import TASKS


def gpu(*words: str) -> GpuOptions:
    return cli.parse(words).gpu


def test_without_flags_the_defaults() -> None:
    assert cli.parse([]) == Options(command="python repack/model_repack.py")
    assert Options().source.weights.is_file()
    assert gpu().profile == {}


def test_flags_become_options() -> None:
    words = ["--trt", "0", "--input-shape", "a=1x3", "--input-shape", "b=batchx4", "--conf", "0.3"]
    options = cli.parse(words)
    assert options.backend == "torchscript"
    assert options.input_shapes == {"a": (1, 3), "b": ("batch", 4)}
    assert (options.name, options.detector.imgsz, options.detector.confidence) == ("fd1", None, 0.3)
    assert options.command == "python repack/model_repack.py " + " ".join(words)
    assert cli.parse(["--precision", "fp16"]).precision == "f16"


def test_where_the_model_comes_from() -> None:
    words = ["--weights", "a.pt", "--original", "b.onnx", "--network", "m:C", "--folds", "0,2,0"]
    more = ["--mirror", "1", "--volumes", "v.yaml", "--tensorflow-python", "p"]
    assert cli.parse([*words, *more]).source == SourceOptions(
        Path("a.pt"), Path("b.onnx"), "m:C", ("0", "2"), True, Path("v.yaml"), Path("p")
    )


def test_what_is_asked_of_a_classifier() -> None:
    given = cli.parse(["--task", "classification", "--mean", "0.5", "--std", "1/255,1/255,0.5"])
    assert given.classifier == ClassifierOptions(None, (0.5,) * 3, (1 / 255, 1 / 255, 0.5))
    named = cli.parse(["--labels", "a.txt", "--top-k", "3", "--resize", "232", "--crop", "224"])
    assert named.classifier == ClassifierOptions(Path("a.txt"), resize=232, crop=224, top_k=3)
    assert (given.task, named.task) == ("classification", "auto")


def test_batches_are_sorted_and_each_once() -> None:
    assert gpu("--batch", "16,1,4,4").batches == (1, 4, 16)


def test_a_profile_takes_the_place_of_batches() -> None:
    found = gpu("--min", "x=1x3x16x16", "--opt", "x=2x3x32x32", "--max", "x=4x3x64x64")
    assert found.batches == ()
    assert found.profile == {"x": ((1, 3, 16, 16), (2, 3, 32, 32), (4, 3, 64, 64))}


def test_the_gpus_others_are_taken_as_given(tmp_path: Path) -> None:
    words = ["--via", "onnx", "--level", "5", "--workspace", "64", "--rebuild"]
    found = gpu(*words, "--rebuild-on-load", "--engine-cache", str(tmp_path))
    assert (found.via, found.level, found.workspace_mb) == ("onnx", 5, 64)
    assert found.rebuild
    assert found.rebuild_on_load
    assert found.engine_cache == tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task", "tensors", "--labels", "a"], "--task tensors has no use for --labels"),
        (
            ["--task", "segmentation", "--labels", "a"],
            "--task segmentation has no use for --labels",
        ),
        (["--crop", "0"], "--crop 0: expected 1 to 4096 pixels"),
        (["--resize", "9000"], "--resize 9000: expected 1 to 4096 pixels"),
        (["--top-k", "0"], "--top-k 0: expected at least 1"),
        (["--std", "0"], "--std 0,0,0: expected numbers above 0"),
        (["--version", "1/0"], "--version '1/0': expected such as 1.0"),
        (["--name", "a" * 101], "--name of 101 letters: expected at most 100"),
        (["--batch", "0"], "--batch '0': expected sizes such as 1,4,16"),
        (["--batch", "1,,4"], "--batch '1,,4': expected sizes"),
        (["--batch", "99999"], "--batch '99999': expected sizes"),
        (["--workspace", "0"], "--workspace 0: expected MiB, at least 1"),
        (["--min", "1x3"], "--min, --opt and --max belong together"),
        (
            ["--min", "a=1x3", "--opt", "b=1x3", "--max", "a=1x3"],
            "--min, --opt and --max name different inputs",
        ),
        (
            ["--min", "2x3", "--opt", "1x3", "--max", "4x3"],
            "--min --opt --max 2x3 1x3 4x3: expected each axis to grow or stay",
        ),
        (
            ["--min", "1x3", "--opt", "1x3x8", "--max", "4x3"],
            "--min --opt --max 1x3 1x3x8 4x3: expected each axis to grow or stay",
        ),
        (["--min", "1xx3", "--opt", "1x3", "--max", "1x3"], "--min '1xx3': expected [NAME=]1x3"),
        (["--min", "0x3", "--opt", "1x3", "--max", "1x3"], "--min '0x3': expected [NAME=]1x3"),
    ],
)
def test_a_wrong_value_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(KitError) as refused:
        cli.parse(words)
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("value", ["1,2", "a", "1/0", "-1", "1/2/3"])
def test_no_numbers_are_a_wrong_flag(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--labels", "a", f"--mean={value}"])
    assert caught.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "known"),
    [("--backend", BACKENDS), ("--precision", PRECISIONS), ("--task", TASKS)],
)
def test_what_is_not_there_is_answered_with_what_is(
    flag: str, known: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse([flag, "magic"])
    assert caught.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {flag}: invalid choice: 'magic'" in line
    assert all(name in line for name in known)


def test_an_original_is_for_engines(tmp_path: Path) -> None:
    options = cli.parse(["--original", "any.onnx", "--model-store", str(tmp_path)])
    with pytest.raises(KitError, match="--original is for an engine of --weights"):
        pipeline.repack(options)


def helped(monkeypatch: pytest.MonkeyPatch, columns: int) -> dict[str, str]:
    """By flag what ``--help`` says of it, in one line each."""
    monkeypatch.setenv("COLUMNS", str(columns))
    _, *parts = re.split(r"\n  (?=-)", flags.parser().format_help())
    lines = [" ".join(part.split()) for part in parts]
    return {re.split("[ ,]", line)[0]: line for line in lines}


@pytest.mark.parametrize("columns", [80, 400])
def test_help_names_every_flag_and_its_default(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = helped(monkeypatch, columns)
    assert {a.option_strings[0] for a in flags.parser()._actions} == set(said)
    assert {"-h", "--weights", "--backend", "--precision", "--samples", "--trt"} < set(said)
    for line in said.values():
        assert len(line.split(" ")) > 2, line
        assert line.count("default") <= 1, line
        assert "None" not in line
        assert str(ROOT) not in line
        assert not re.search(r"(^|\s|:)/\w", line), line
    for flag, default in (
        ("--name", "fd1"),
        ("--imgsz", "the file's, or 640"),
        ("--batch", "1,4,16"),
        ("--mean", "the file's, or ImageNet's"),
        ("--model-store", "model_store"),
        ("--engine-cache", ".engines"),
        ("--backend", "auto"),
        ("--weights", "the shipped detector"),
        ("--level", "3"),
    ):
        assert said[flag].endswith(f"(default: {default})"), said[flag]
    for flag in ("--rebuild", "--samples", "--info", "--input-shape", "--trt"):
        assert "default" not in said[flag]


def test_help_lists_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    said = helped(monkeypatch, 400)
    assert f"{{auto,{','.join(BACKENDS)}}}" in said["--backend"]
    assert f"{{auto,{','.join(TASKS)}}}" in said["--task"]
    assert f"{{auto,{','.join(PRECISIONS)}" in said["--precision"]


def test_info_shows_the_machine_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever else is asked."""
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--info", "--weights", "none.pt"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for words in ("TensorRT", "torch2trt: ", "PyTorch ", "driver: ", "GPU"):
        assert re.search(rf"^{words}", shown, re.M), shown
