"""Takes each fault's mend out of a copy of the tree and expects the row's test to fail.

    python -m tests.faults.mutations [--rows 1,2,46] [--write]

The mends are named in the tables ``mutations_*.py`` beside this file, one heading of README.md
each; ``--write`` writes the results there. Exit code 1 where a test stayed green.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from handlers import passport as passports
from repack import archive
from tests.support import shared

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
README = HERE / "README.md"


@dataclass(frozen=True)
class Mutation:
    """A mend that is taken out.

    Attributes:
        row: of the table of faults.
        test: the tests of which one must fail: a file, and words to choose by after " -k ".
        what: the mend, in words.
        file: below the root of the tree.
        old: its text there, found exactly once.
        new: what stands there without the mend.
    """

    row: int
    test: str
    what: str
    file: str
    old: str
    new: str

    def taken_out(self, root: Path) -> str:
        """The file's text without the mend.

        Raises:
            ValueError: its text is not there, or more than once.
        """
        text = (root / self.file).read_text(encoding="utf-8")
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"row {self.row}: {self.file} has {count} times {self.old!r}")
        return text.replace(self.old, self.new)


def tables() -> dict[str, list[Mutation]]:
    """Each table's mutations, by its heading: that of ``mutations_rows.py`` is "Rows"."""
    names = sorted(path.stem for path in HERE.glob("mutations_*.py"))
    found = {}
    for name in names:
        module = importlib.import_module(f"tests.faults.{name}")
        found[name.removeprefix("mutations_").capitalize()] = list(module.MUTATIONS)
    return found


@contextmanager
def copied() -> Iterator[Path]:
    """A copy of the tree as it is, what git ignores left out."""
    with tempfile.TemporaryDirectory(prefix="kit-mutations-") as folder:
        root = Path(folder) / "kit"
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, root / name)
        yield root


def ran(root: Path, test: str, archives: Path) -> str:
    """ "green", "red", or what else came of it.

    Args:
        archives: the folder that holds those the tests share.
    """
    done = subprocess.run(
        [*PYTEST, *shlex.split(test)], cwd=root, capture_output=True, text=True, check=False,
        env={**os.environ, shared.SHARED: str(archives)},
    )  # fmt: skip
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    if done.returncode == 0 and "passed" in last:
        return "green"
    # An error of a fixture is one of the server that the test is about: it was green before.
    broke = done.returncode == 1 and (" failed" in last or " error" in last)
    return "red" if broke else f"not run ({last})"


def together(asked: Sequence[Mutation]) -> str:
    """All their tests in one run, and a few more that the same words choose."""
    given = [m.test.partition(" -k ") for m in asked]
    files = sorted({test for test, _, _ in given})
    words = " or ".join(sorted({word for _, _, word in given if word}))
    if not words or not all(word for _, _, word in given):
        return " ".join(files)
    return f"{' '.join(files)} -k '{words}'"


PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line")


def renew(archives: Path, root: Path) -> None:
    """Gives the shared archives the ``handlers`` of this tree, as a repack would."""
    for path in archives.rglob("*.mar"):
        with tempfile.TemporaryDirectory(dir=archives) as folder:
            stage = Path(folder) / "stage"
            record = archive.unpack(path, stage)
            for name in record.files:
                if name.startswith("handlers/"):
                    shutil.copyfile(root / name, stage / name)
            files = {name: passports.sha256(stage / name) for name in record.files}
            (stage / passports.FILE).write_text(replace(record, files=files).to_json())
            archive.pack(stage, path)


def run(asked: Sequence[Mutation]) -> Iterator[tuple[Mutation, str]]:
    """What came of each: "red" is right; "green" means that its test cannot fail.

    First all tests are run with every mend in its place, where they must be green.
    """
    with copied() as root:
        archives = root.parent / "archives"
        archives.mkdir()
        sound = dict.fromkeys({m.test for m in asked}, ran(root, together(asked), archives))
        for one in asked:
            if sound[one.test] != "green":  # of all of them: this one may be
                sound[one.test] = ran(root, one.test, archives)
            if sound[one.test] != "green":
                yield one, f"not green with the mend: {sound[one.test]}"
                continue
            path = root / one.file
            before = path.read_text(encoding="utf-8")
            path.write_text(one.taken_out(root), encoding="utf-8")
            travels = one.file.startswith("handlers/")
            if travels:
                renew(archives, root)
            yield one, ran(root, one.test, archives)
            path.write_text(before, encoding="utf-8")
            if travels:
                renew(archives, root)


HEAD = "| row | test | mend taken out | red |\n|---|---|---|---|\n"


def written(text: str, heading: str, every: Sequence[Mutation], found: dict[Mutation, str]) -> str:
    """README.md with these results under a heading; those of earlier runs stay beside them."""
    before, _, rest = text.partition(f"## {heading}\n")
    old, gap, after = rest.partition("\n## ")
    known = {line.rpartition(" | ")[0]: line for line in old.splitlines()}
    rows = ""
    for m in every:
        start = f"| {m.row} | `{m.test}` | {m.what} (`{m.file}`)"
        result = {"red": "yes"}.get(found.get(m, ""), found.get(m, "not run"))
        line = f"{start} | {result} |"
        rows += f"{line if m in found else known.get(start, line)}\n"
    return f"{before}## {heading}\n\n{HEAD}{rows}{gap}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="", help="such as 1,2,46; default: all")
    parser.add_argument("--write", action="store_true", help="the results, into README.md")
    given = parser.parse_args()
    wanted = {int(row) for row in given.rows.split(",") if row}
    bad = 0
    for heading, every in tables().items():
        found: dict[Mutation, str] = {}
        for one, result in run([m for m in every if not wanted or m.row in wanted]):
            print(f"{time.strftime('%H:%M:%S')} row {one.row}: {one.what}: {result}", flush=True)
            found[one] = result
            if given.write:
                text = written(README.read_text(encoding="utf-8"), heading, every, found)
                README.write_text(text, encoding="utf-8")
        bad += sum(result != "red" for result in found.values())
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
