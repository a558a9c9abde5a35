"""NAME.report.json and NAME.report.html beside an archive: may it be shipped?

    python -m repack.report model_store/fd1.report.json

makes the page again from its data.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repack.archive import Draft
from repack.progress import say

if TYPE_CHECKING:
    from handlers.passport import Passport
    from repack.backends.conversion import Conversion
    from repack.candidates import Candidate
    from repack.gate import Reference
    from repack.options import Options


def write(
    target: Path,
    passport: Passport,
    options: Options,
    conversion: Conversion,
    reference: Reference | None,
    tried: Sequence[Candidate],
    chosen: Candidate,
) -> None:
    """Writes both files beside a finished archive; where that fails it says so, and no more.

    Args:
        target: the archive.
        passport: its own.
        reference: the gate's inputs and the original's answers.
        tried: all candidates, built and timed.
    """
    from repack.report import facts, page

    found = facts.collect(target, passport, options, conversion, reference, tried, chosen)
    place(target.with_suffix(".report.json"), json.dumps(found, indent=1) + "\n")
    shown = target.with_suffix(".report.html")
    written = place(shown, page.made(found))
    say(f"  {target}: {found['bytes'] / 1e6:.1f} MB, {chosen.backend} {chosen.precision}")
    if written:
        say(f"  report: {shown}")


def place(path: Path, text: str) -> bool:
    """Writes a file whole or not at all; an older one would speak of another archive and goes.

    Returns:
        Whether it was written.
    """
    try:
        with Draft(path) as draft:
            draft.path.write_text(text, encoding="utf-8")
            draft.commit()
    except OSError as e:
        say(f"    note: {path} was not written ({e.strerror or e}); the archive is whole")
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return False
    return True


def read(path: Path) -> dict[str, Any]:
    """A report.json, of this version's layout or the one before it.

    Raises:
        ValueError: no JSON, or none of this kit's.
    """
    from repack.report.page import FORMAT

    found = json.loads(path.read_text(encoding="utf-8"))
    version = found.get("format") if isinstance(found, dict) else None
    if version not in (1, FORMAT):
        raise ValueError(f"no report of this kit, which reads formats 1 and {FORMAT}")
    if version == FORMAT:
        return dict(found)
    from repack.report import facts

    return facts.upgraded(found)
