"""``python -m deploy.ray``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from deploy.ray.settings import parse
from handlers.errors import KitError


def main(argv: Sequence[str]) -> int:
    """Runs one action; a mistake is one line on stderr and exit status 1."""
    try:
        settings = parse(argv)
        # Only now: --help works before anything is installed.
        try:
            import ray.serve  # noqa: F401
        except ImportError as e:
            raise KitError(f"Ray is missing ({e}): pip install -r requirements-ray.txt") from None
        from deploy.ray import cluster

        return cluster.run(settings)
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
