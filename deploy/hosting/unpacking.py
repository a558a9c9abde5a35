"""An archive checked and unpacked by the kit's own code, in a process of its own.

The kit's check imports the kit's ``handlers``; the process that asked must import the archive's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.hosting.code import HostError

ROOT = Path(__file__).resolve().parents[2]


def unpack(archive: Path, folder: Path) -> None:
    """Checks structure, bounds and every checksum, then unpacks into ``folder``.

    Raises:
        HostError: why the archive is refused, or that it cannot be unpacked there.
    """
    command = [sys.executable, "-m", __name__, str(archive.absolute()), str(folder.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise HostError(lines[-1] if lines else f"{archive}: unpacking ended {done.returncode}")


def main(archive: Path, folder: Path) -> int:
    """Unpacks; 1 where the archive is refused, with the reason on stderr."""
    from handlers.errors import KitError
    from repack import archive as archives

    try:
        archives.unpack(archive, folder)
    except KitError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2])))
