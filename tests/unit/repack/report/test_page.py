"""The page: from real repacks, and with strings that attack it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from handlers.artefact import Artefact, TensorRTOptions
from handlers.passport import TensorSpec, sha256
from handlers.runtimes.base import Runtime
from repack import archive, cli, packing, report
from repack import inspect as show
from repack.backends.conversion import Conversion
from repack.candidates import Candidate, Proof
from repack.gate import NOT_PROVEN, GateResult
from repack.model import Model
from repack.report import page, unchecked, words
from repack.sources.source import Source
from tests.support import made, preloaded
from tests.support.reports import HOSTILE, hostile, segmentation_facts

VOID = {"img", "meta"}


class Reader(HTMLParser):
    """Tags, attributes and text of a page; every tag must be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def facts() -> dict[str, Any]:
    """Of a real repack of a small ONNX model."""
    return report.read(made.tensors().with_suffix(".report.json"))


def test_a_real_repack_leaves_data_and_the_page_made_from_it() -> None:
    packed = made.tensors()
    found = facts()
    assert page.made(found) == packed.with_suffix(".report.html").read_text(encoding="utf-8")
    assert found["sha256"] == sha256(packed)
    assert found["bytes"] == packed.stat().st_size
    assert found["passport"]["files"].keys() >= {"onnxruntime-f32/model.onnx"}
    assert found["operators"] == {
        "none": "the source is an ONNX file already: nothing was exported"
    }
    assert found["graph"]["nodes"] == 3
    assert [n["what"] for n in found["not_checked"] if n["serious"]] == ["Real inputs"]


def test_what_int8_left_in_floats_is_told_and_what_it_should_have_left() -> None:
    found = facts()
    artefacts = found["passport"]["artefacts"]
    plain = page.made(found)
    artefacts["accelerated"]["precision_found"]["kept"] = 0.126
    told = page.made(found)
    assert "13% of the multiply-adds are in layers next to inputs and outputs" in told
    assert "which int8 leaves in floats on purpose" not in plain
    gate: dict[str, Any] = {"inputs": {}, "passed": None, "note": "no original"}
    for relaxed in (False, True):
        options = TensorRTOptions(outputs=("y",), built={}, engines=(), via="onnx", relaxed=relaxed)
        chosen = Artefact("tensorrt", (), "int8", {}, "tensors", options)
        notes = [n["what"] for n in unchecked.listed([], gate, [], chosen)]
        assert ("What layers in int8 that should be in 16 bits cost" in notes) == relaxed
        assert "Inputs unlike the calibration's" in notes


def test_what_a_person_needs_is_in_the_page() -> None:
    found = facts()
    text = Reader(page.made(found)).text
    (candidate,) = found["candidates"]
    for needed in (
        "Passed, but too little was compared",
        "no --samples were given, so the gate compared on random inputs only",
        f"{candidate['ms']:.2f} ms",
        words.number(candidate["gate"]["outputs"]["y"]["relative_l2"]),
        "relative L2 error at most 1.00e-04",
        found["sha256"],
        found["passport"]["source"]["sha256"],
        found["command"],
        f"onnxruntime{found['passport']['versions']['onnxruntime']}",
        "first to second",
    ):
        assert needed in text, needed


class Never(Runtime):
    """A runtime that nobody may ask."""

    def __init__(self) -> None:
        pass

    def activate(self) -> None:
        raise AssertionError

    def infer(self, inputs: Any, every: bool = False) -> Any:
        raise AssertionError


def test_an_engine_without_its_original_is_called_not_proven(tmp_path: Path) -> None:
    """As ``--weights x.engine`` leaves it; the engine itself needs a GPU and is not read here."""
    spec = TensorSpec("x", "float32", ("batch", 8))
    source = Source(None, "engine", "x", (), tmp_path / "x.engine", "0" * 64, "tensors")
    model = Model(source, (spec,), (spec,), None, None)
    artefact = Artefact("tensorrt", ("tensorrt-given/model.plan",), "f16", {}, "tensors")
    found_in = {"label": "f16", "layers": {"f16": 1.0}, "flops": {}}
    seen = GateResult("f16", found_in, note=NOT_PROVEN)
    artefact = replace(artefact, precision_found=found_in)
    record = packing.passport(
        model, "x", "1.0", {"accelerated": artefact}, {"accelerated": seen.to_dict()}
    )
    candidate = Candidate("tensorrt", "f16", "given", Proof(artefact, seen, Never()))
    options = cli.parse(["--weights", str(source.path)])
    conversion = Conversion(model, tmp_path)
    packed = tmp_path / "x.mar"
    packed.write_bytes(b"archive")
    report.write(packed, record, options, conversion, None, [candidate], candidate)
    found = report.read(tmp_path / "x.report.json")
    assert [n["what"] for n in found["not_checked"] if n["serious"]] == [
        "Whether it answers like its original"
    ]
    text = Reader((tmp_path / "x.report.html").read_text(encoding="utf-8")).text
    assert "Not proven: nobody compared it with its original" in text
    assert "TensorRT f16, not compared" in text
    assert "It answered like the original" not in text
    assert "passed" not in text.casefold()


def test_a_segmentations_labels_have_their_figures_and_limits() -> None:
    text = Reader(page.made(segmentation_facts(facts()))).text
    assert "limits: Dice at least 0.9990, HD95 at most 2.00 mm" in text
    assert "trunk0.94120.803,102" in text and "Dice 0.9412" in text
    assert "case_001.nii.gz" in text and "differencevoxels" not in text


def test_hostile_strings_stay_text() -> None:
    kind = segmentation_facts(facts())
    kind["passport"]["labels"] = ["a"] * 300
    kind["not_checked"].append({"what": "a", "why": "a", "serious": True})
    benign, attacked = Reader(page.made(kind)), Reader(page.made(hostile(kind)))
    for tag in ("script", "img", "style", "section", "h2", "svg", "meta"):
        assert attacked.tags[tag] == benign.tags[tag], tag
    assert attacked.tags.keys() <= benign.tags.keys()
    assert {k for k, _ in attacked.attributes} <= {k for k, _ in benign.attributes}
    assert "\u202e" not in attacked.text and "\0" not in attacked.text
    assert "</script><img src=x onerror=alert(1)>" in attacked.text, "shown as it is"
    sources = [v for k, v in attacked.attributes if k in ("src", "href", "d")]
    assert not [v for v in sources if HOSTILE[:9] in str(v)]


def test_every_arrow_of_the_graph_is_drawn() -> None:
    found = facts()
    found["graph"]["stages"][0]["after"] = [1, 2]
    drawn = page.made(found)
    assert re.findall(r'<path d="([^"]*)"', drawn) == [
        "M50 5V15",
        "M50 5C3 5 3 25 50 25",
        "M50 15V25",
    ]
    assert re.findall(r'class="dot" d="([^"]*)"', drawn) == ["M50 5h0", "M50 15h0", "M50 25h0"]


@pytest.mark.parametrize(
    ("via", "name"),
    [
        (None, "TensorRT f16"),
        ("onnx", "TensorRT through ONNX f16"),
        ("torch2trt", "TensorRT through torch2trt f16"),
        ("given", "TensorRT (given as a file) f16"),
    ],
)
def test_a_candidate_says_how_its_engine_was_made(via: str | None, name: str) -> None:
    assert words.candidate({"backend": "tensorrt", "via": via, "precision": "f16"}) == name


def test_labels_are_shown_one_by_one_and_the_first_hundred_of_many() -> None:
    found = facts()
    found["passport"]["labels"] = [f"label number {i}" for i in range(120)]
    text = Reader(page.made(found)).text
    assert "120 labels: label number 0, label number 1, " in text
    assert "label number 98, label number 99 and 20 more" in text


def test_nothing_is_loaded_from_anywhere() -> None:
    for text in (page.made(facts()), page.made(segmentation_facts(facts()))):
        assert not re.search(r"https?:|url\(|@import|<script|<link|srcset", text)
        assert {v.partition(",")[0] for v in re.findall(r'src="([^"]*)"', text)} <= {
            "data:image/jpeg;base64"
        }


def test_the_page_stays_small_and_says_what_it_left_out() -> None:
    found = segmentation_facts(facts())
    for picture in found["pictures"]["samples"][0]["pictures"]:
        picture["uri"] += "A" * 400_000
    text = page.made(found)
    assert len(text.encode()) < page.MOST_BYTES
    assert "left out: with them the page would be larger than 3 MB" in text


def test_without_room_an_older_page_goes_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "fd1.report.html"
    old.write_text("of another archive")

    def full(self: Path, *_: Any, **__: Any) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        assert report.place(old, "new") is False
    assert (
        "was not written (No space left on device); the archive is whole" in capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
    assert report.place(old, "new") and old.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["fd1.report.html"]


def test_a_part_that_fails_is_named_and_the_report_is_made(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from repack.report import facts as collected

    def broken() -> dict[str, Any]:
        raise ValueError("odd graph\nsecond line")

    found = collected._part("graph", broken)
    assert found == {"none": "could not be made (ValueError: odd graph)"}
    assert "the report has no graph (ValueError: odd graph)" in capsys.readouterr().err
    text = Reader(page.made({**facts(), "graph": found})).text
    assert "Not drawn: could not be made (ValueError: odd graph)." in text


def test_the_page_can_be_made_again(tmp_path: Path) -> None:
    data = tmp_path / "x.report.json"
    data.write_text(json.dumps(facts()))
    assert again(data) == (0, f"{tmp_path / 'x.report.html'}\n", "")
    assert (tmp_path / "x.report.html").read_text(encoding="utf-8") == page.made(facts())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "no report of this kit, which reads formats 1 and 2"),
        ("[1]", "no report of this kit, which reads formats 1 and 2"),
        ('{"format": 3}', "no report of this kit, which reads formats 1 and 2"),
        ('{"format": 2}', "lacks or misnames something that the page shows ('passport')"),
        ('{"format": 1}', "lacks or misnames something that the page shows ('limits')"),
        ("no JSON", "Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_what_is_no_whole_report_is_refused_in_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    data = tmp_path / "x.report.json"
    data.write_text(text)
    line = f"error: {data}: {reason}; expected a NAME.report.json\n"
    assert again(data) == (1, "", line)
    assert [path.name for path in tmp_path.iterdir()] == ["x.report.json"]


def test_a_report_without_something_that_the_page_shows_is_refused_by_its_name(
    tmp_path: Path,
) -> None:
    found = facts()
    del found["machine"]["cores"]
    data = tmp_path / "x.report.json"
    data.write_text(json.dumps(found))
    code, _, said = again(data)
    assert code == 1 and said.count("\n") == 1 and "no attribute 'cores'" in said


def again(data: Path) -> tuple[int, str, str]:
    """Exit code, output and errors of ``python -m repack.report``."""
    done = preloaded.run("repack.report.__main__", [str(data)], os.environ, made.ROOT)
    return done.returncode, done.stdout, done.stderr


def test_a_report_of_format_1_is_read() -> None:
    """As the version before wrote it, of the shipped detector; most of its code's hashes cut."""
    found = report.read(Path(__file__).with_name("format1.report.json"))
    text = Reader(page.made(found)).text
    for needed in (
        "mAP50-95 0.8908",
        "at least 100.0%",
        "at most 0.1 points (hundredths) lost",
        "0.8908 → 0.8908, 0.00 points lost",
        "relative L2 error at most 1.00e-04",
        "largest difference at most 9.00e-04 + 1.00e-04 x |original|",
        "290 nodes (constants left out) in 38 stages",
        "decoding and suppression",
        "shapes07.jpg",
    ):
        assert needed in text, needed
    assert "weights in all" not in text


def faster(found: dict[str, Any], precision: str, ms: float) -> dict[str, Any]:
    """The facts with a faster candidate of another precision chosen."""
    (candidate,) = found["candidates"]
    gate = {**candidate["gate"], "outputs": {"y": {"relative_l2": 0.0123}}}
    chosen = {**candidate, "precision": precision, "per_item_ms": ms, "ms": ms, "gate": gate}
    candidate |= {"per_item_ms": 21.0, "ms": 21.0}
    found["candidates"].append(chosen)
    found["chosen"]["precision"] = precision
    found["limits"][precision] = {"relative_l2": {"most": 0.03}}
    return found


def test_why_a_more_exact_candidate_was_not_taken() -> None:
    plain = facts()
    assert "ore exact" not in Reader(page.made(plain)).text, "f32 is the most exact there is"
    error = words.worst(plain["candidates"][0]["gate"]["outputs"])
    found = faster(facts(), "bf16", 6.0)
    text = " ".join(Reader(page.made(found)).text.split())
    assert (
        f"More exact is ONNX Runtime f32, with a relative L2 error of {error} against 0.0123. It "
        "was not taken because it takes 3.5 times as long: 21.00 ms an item against 6.00 ms."
    ) in text
    found["candidates"][0]["verdict"] = "y: differs"
    failed = "No more exact candidate passed the gate: ONNX Runtime f32 (y: differs)."
    assert failed in " ".join(Reader(page.made(found)).text.split())
    del found["candidates"][0]
    found["asked"]["precision"] = "bf16"
    why = "No more exact precision was tried, because bf16 was asked for."
    assert why in Reader(page.made(found)).text


@pytest.mark.parametrize(("samples", "noted"), [(0, True), (4, True), (5, False)])
def test_how_many_samples_are_enough_is_told(samples: int, noted: bool) -> None:
    gate: dict[str, Any] = {"inputs": {"samples": samples}, "passed": True}
    chosen = Artefact("onnxruntime", (), "f32", {}, "tensors")
    serious = [n for n in unchecked.listed([], gate, [], chosen) if n["serious"]]
    assert [bool(re.search(r"\b5 (samples|or more) are enough", n["why"])) for n in serious] == (
        [True] if noted else []
    )
    told = " ".join(Reader(page.made(facts())).text.split())
    assert "5 samples are enough for this page: what goes wrong on every second input is" in told
    assert "every tenth takes 29 inputs for 95 %" in told
    assert 0.968 < 1 - 0.5**unchecked.ENOUGH < 0.97
    assert 1 - 0.9**28 < 0.95 < 1 - 0.9**29


def test_several_windows_of_one_file_are_one_sample() -> None:
    gate: dict[str, Any] = {"inputs": {"samples": 8}, "passed": True}
    chosen = Artefact("onnxruntime", (), "f32", {}, "tensors")
    first = unchecked.listed([], gate, [], chosen, files=2)[0]
    assert first["why"].startswith("the gate saw 2 of yours; 5 or more are enough")


def test_every_samples_pictures_have_the_legend_beside_them() -> None:
    found = segmentation_facts(facts())
    found["pictures"]["samples"] *= 2
    made_of = page.made(found)
    assert made_of.count('<ul class="legend">') == 4
    assert made_of.index("<article>") < made_of.index('<ul class="legend">')


def test_what_is_no_picture_and_no_colour_does_not_reach_the_page() -> None:
    found = segmentation_facts(facts())
    found["pictures"]["samples"][0]["pictures"][0]["uri"] = "https://example.org/x.jpg"
    (entry,) = found["pictures"]["legend"]["original and converted"]
    assert f"background: {entry['colour']}" in page.made(found)
    entry["colour"] = "red; background-image: url(//example.org/x)"
    assert "example.org" not in page.made(found)


def test_show_names_the_page() -> None:
    passport = archive.verify(made.tensors())
    assert f"report      {made.tensors().with_suffix('.report.html')}" in show.text(
        passport, made.tensors()
    )


SCHEMES = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it, 0 to 1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", range(3), ids=["light", "dark", "print"])
def test_text_can_be_told_from_its_ground(scheme: int) -> None:
    """At least 4.5 to 1, and 3 to 1 for what is drawn (WCAG 2.2, 1.4.3 and 1.4.11)."""
    blocks = (page.TEMPLATES / "style.css").read_text(encoding="utf-8").split(":root")[1:]
    colours = dict(SCHEMES.findall(blocks[scheme].split("}")[0]))
    pairs = [(text, ground) for text in ("ink", "soft", "link") for ground in ("page", "card")]
    pairs += [(kind, f"{kind}-soft") for kind in ("good", "caution", "bad")]
    pairs += [("ink", f"{kind}-soft") for kind in ("good", "caution")] + [("caution", "card")]
    pairs += [("ink", "track"), ("soft", "track"), ("soft", "caution-soft")]
    drawn = [("other", "card"), ("good", "card"), ("good", "track"), ("caution", "card")]
    for wanted, given in ((4.5, pairs), (3.0, drawn)):
        for one, two in given:
            light, dark = sorted((luminance(colours[one]), luminance(colours[two])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= wanted, (one, two)
