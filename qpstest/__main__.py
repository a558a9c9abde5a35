"""``python qpstest`` and ``python -m qpstest``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:  # started as a folder: the folder itself is on the path, the project is not
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from qpstest.cli import main

    sys.exit(main(sys.argv[1:]))
