"""The README and docs/: every flag with its default, every link, every path, the words."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.ray import settings as on_ray
from deploy.torchserve import settings as serving
from deploy.triton import __main__ as triton
from qpstest import flags as tester
from repack import flags
from tests.support import pages
from tests.support.pages import PAGES, ROOT

MAX_README_WORDS = 1500

PARSERS: Mapping[str, argparse.ArgumentParser] = {
    "repack/model_repack.py": flags.parser(),
    "run.sh": serving.parser(),
    "python -m deploy.ray": on_ray.parser(),
    "qpstest": tester.parser(),
    "python -m deploy.triton": triton.parser(),
}

OTHER_FLAGS = {
    *("--build-arg", "--cap-add", "--device", "--entrypoint", "--format", "--gpus", "--read-only"),
    *("--rm", "--secret", "--stop-timeout", "--tmpfs", "--data-binary", "--help"),
    *("--http-header-forward-pattern", "--model-repository"),
    *("--count", "--json", "--name", "--out", "--save", "--token", "--url", "--work"),
    *("--address", "--disable-usage-stats", "--head", "--node-ip-address", "--retries"),
}
"""Of Docker, curl and Ray, of the examples' programs, and of the smaller commands."""


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    return {
        flag: action
        for action in parser._actions
        for flag in action.option_strings
        if flag not in ("-h", "--help")
    }


def default_of(action: argparse.Action) -> str | None:
    """A flag's default as --help tells it; None where it tells none."""
    value = action.default
    if value is False:
        return "off"
    if value not in (None, [], argparse.SUPPRESS):
        if isinstance(value, Path):
            return str(value.relative_to(ROOT) if value.is_relative_to(ROOT) else value)
        if isinstance(value, (tuple, float)):
            return ",".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))
        return str(value)
    told = re.search(r"\bdefault:? (.+?)(?:\)$|;|$)", action.help or "")
    return told[1].rstrip(")") if told else None


def same_default(told: str, cell: str) -> bool:
    """Whether one is the other, or begins it as a part of a sentence."""
    shown = cell.replace("`", "")
    long, short = sorted((told, shown), key=len, reverse=True)
    return re.match(re.escape(short) + r"($|,? |;)", long) is not None


def documented(program: str) -> dict[str, list[str]]:
    """Flag -> the cells of its row in docs/cli.md."""
    text = pages.section(pages.read(ROOT / "docs" / "cli.md"), program)
    found: dict[str, list[str]] = {}
    for cells in pages.rows(text):
        for flag in re.findall(r"^`(--[a-z0-9-]+)", cells[0]):
            assert flag not in found, f"{flag} has two rows"
            found[flag] = cells
    return found


@pytest.mark.parametrize("program", PARSERS)
def test_every_flag_has_a_row_and_every_row_is_a_flag(program: str) -> None:
    have, rows = set(flags_of(PARSERS[program])), set(documented(program))
    assert not have - rows, f"not in docs/cli.md: {sorted(have - rows)}"
    assert not rows - have, f"no flag of {program}: {sorted(rows - have)}"


@pytest.mark.parametrize("program", PARSERS)
def test_defaults_and_choices_are_the_parsers(program: str) -> None:
    rows, wrong = documented(program), []
    for flag, action in flags_of(PARSERS[program]).items():
        if flag not in rows:
            continue  # another test's finding
        _, cell, *_ = rows[flag]
        told = default_of(action)
        if told is not None and not same_default(told, cell):
            wrong.append(f"{flag}: {told!r}, the page has {cell!r}")
        if told is None and "`" in cell:
            wrong.append(f"{flag}: no default of its own, the page has {cell!r}")
        named = set(pages.codes(" ".join(rows[flag])))
        missing = {str(c) for c in action.choices or ()} - named
        if missing:
            wrong.append(f"{flag}: choices {sorted(missing)} are not named")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_page_names_a_flag_that_is_gone(page: Path) -> None:
    known = OTHER_FLAGS.union(*(flags_of(parser) for parser in PARSERS.values()))
    text = pages.read(page)
    code = "\n".join([*pages.codes(text), *pages.blocks(text, "bash", "sh")])
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", code))
    assert not named - known


def tracked() -> list[Path]:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    return [
        ROOT / name for name in filter(None, done.stdout.split("\0")) if (ROOT / name).is_file()
    ]


@pytest.mark.parametrize("page", tracked(), ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for target in pages.links(pages.read(page)):
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and anchor not in pages.anchors(pages.read(there))):
            dead.append(target)
    assert not dead


PATH = re.compile(r"(benchmarks|deploy|docs|examples|handlers|qpstest|repack|tests)/[a-z0-9_./-]*")
DOTTED = re.compile(r"(deploy|examples|handlers|qpstest|repack)(\.[a-z_]\w*)+([.:][A-Z]\w*)?")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_and_names_of_the_code_exist(page: Path) -> None:
    gone = []
    for code in pages.codes(pages.read(page)):
        if PATH.fullmatch(code) and not (ROOT / code).exists():
            gone.append(code)
        if DOTTED.fullmatch(code) and not is_defined(code):
            gone.append(code)
    assert not gone


def is_defined(dotted: str) -> bool:
    """Whether "package.module.NAME", or ":NAME", stands in the code, or is itself a module."""
    *parts, last = re.split("[.:]", dotted)
    for folder, name in ((ROOT.joinpath(*parts), last), (ROOT.joinpath(*parts, last), "")):
        for file in (folder / "__init__.py", folder.with_suffix(".py")):
            if file.is_file():
                text = file.read_text(encoding="utf-8")
                if not name or re.search(rf"^\s*(class |def |){name}\b", text, re.M):
                    return True
    return False


@pytest.mark.parametrize("package", ["handlers", "repack"])
def test_the_tree_in_the_architecture_page_is_the_folder(package: str) -> None:
    text = pages.read(ROOT / "docs" / "architecture.md")
    (tree,) = (b for b in pages.blocks(text, "") if b.startswith(f"{package}/\n"))
    named: set[str] = set()
    for line in tree.splitlines()[1:]:
        for word in line.split():
            if not re.fullmatch(r"\w+(\.py|/)", word):
                break
            named.add(word.rstrip("/"))
    there = {
        path.name
        for path in (ROOT / package).iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert named == there - {"__init__.py", "__main__.py"}


def test_the_readme_is_short() -> None:
    assert len(pages.read(pages.README).split()) <= MAX_README_WORDS


TITLE = "Words that are not used"


def unwanted() -> list[str]:
    glossary = pages.read(ROOT / "docs" / "glossary.md")
    return [cells[0] for cells in pages.rows(pages.section(glossary, TITLE))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_words_of_another_day_do_not_come_back(page: Path) -> None:
    text = pages.read(page)
    if page.name == "glossary.md":
        text = text.replace(pages.section(text, TITLE), "")
    words = pages.prose(text)
    assert len(unwanted()) > 5
    found = [w for w in unwanted() if re.search(rf"\b{re.escape(w)}s?\b", words, re.I)]
    assert not found
