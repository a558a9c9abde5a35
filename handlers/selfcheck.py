"""Answers one input from an unpacked archive, in a process that sees nothing else of the kit.

``python -I -c "..." FOLDER INPUT`` as ``repack.packing`` calls it: prints one JSON line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.errors import KitError


def main(folder: Path, sample: Path) -> int:
    """Loads the archive in ``folder`` and answers the file ``sample``; 0 if its status is 200."""
    accept = "application/json" if sample.suffix == ".jpg" else "application/x-npz, */*"
    context = LocalContext(folder, headers={"accept": accept})
    entry = Entry()
    try:
        entry.initialize(context)
    except KitError as e:
        print(json.dumps({"status": 500, "error": str(e)}))
        return 1
    (answer,) = entry.handle([{"body": sample.read_bytes()}], context)
    (status,) = context.statuses
    report = {
        "status": status,
        "runtime": entry.handler.runtime_info(),
        "handlers": str(Path(__file__).parent),
        "error": answer.decode() if status != 200 else None,
    }
    print(json.dumps(report))
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
