"""Serves the model store: what ``bash run.sh`` runs once the environment is set up."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from deploy.torchserve.settings import change, parse  # noqa: E402
from handlers.errors import KitError  # noqa: E402

SIGTERM_CODE = 143
"""128 and SIGTERM's number, as shells have it."""


def main(argv: Sequence[str]) -> int:
    """Runs one action; a mistake is one line on stderr and exit status 1."""
    try:
        action, settings = parse(argv, os.environ)
        # Only now: --help works before anything is installed.
        from deploy.torchserve import flow

        code = flow.run(action, settings, change(argv), lambda: parse(argv, os.environ)[1])
        sys.stdout.flush()
        return code
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except ImportError as e:
        print(f"error: the set-up is not complete ({e}): run bash run.sh", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read it has left: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f"error: {e.strerror}: {e.filename or 'a file'} cannot be written", file=sys.stderr)
        return 1
    except SystemExit as e:
        if e.code == SIGTERM_CODE:
            print("ended by SIGTERM; what it began is undone", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("interrupted: run it again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
