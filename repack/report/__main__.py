"""Makes report.html again from report.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repack import report
from repack.report import page


def main() -> int:
    """Writes the page beside its data and prints its path; 1 where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m repack.report", description=__doc__)
    parser.add_argument("json", type=Path, help="NAME.report.json, as a repack wrote it")
    given = parser.parse_args()
    try:
        found = report.read(given.json)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        print(f"error: {given.json}: {reason}; expected a NAME.report.json", file=sys.stderr)
        return 1
    target = given.json.with_suffix(".html")
    if not report.place(target, page.made(found)):
        return 1
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
