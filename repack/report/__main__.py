"""Makes report.html again from report.json."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jinja2 import UndefinedError

from repack import report
from repack.report import page


def main() -> int:
    """Writes the page beside its data and prints its path; 1 where it cannot."""
    parser = argparse.ArgumentParser(prog="python -m repack.report", description=__doc__)
    parser.add_argument("json", type=Path, help="NAME.report.json, as a repack wrote it")
    given = parser.parse_args()
    try:
        shown = page.made(report.read(given.json))
    except OSError as e:
        reason = e.strerror or str(e)
    except ValueError as e:
        reason = str(e)
    except (LookupError, TypeError, AttributeError, UndefinedError) as e:
        reason = f"lacks or misnames something that the page shows ({e})"
    else:
        target = given.json.with_suffix(".html")
        if not report.place(target, shown):
            return 1
        print(target)
        return 0
    print(f"error: {given.json}: {reason}; expected a NAME.report.json", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
