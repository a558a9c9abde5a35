"""Turns a checkpoint into a verified TorchServe archive.

    python repack/model_repack.py --weights best.pt --name fd1

Exit codes: 0 done, 1 a mistake in what was asked or given, 2 wrong flags, 3 the converted model
does not answer like the original.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file, whose folder would hide other packages of the same names
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from handlers.errors import KitError
from repack import interrupts
from repack.cli import parse
from repack.progress import say


def main() -> int:
    """Repacks what the command line asks for; standard output gets the archive's path alone."""
    interrupts.listen()
    try:
        options = parse()
        # Only now: --help answers at once, and before anything is installed.
        from repack import pipeline

        print(pipeline.repack(options))
        return 0
    except KitError as e:
        gate = getattr(e, "result", None)
        if gate is not None:
            from repack import tables

            say(tables.gate(gate))
        say(f"error: {e}")
        return 1 if gate is None else 3
    except ModuleNotFoundError as e:
        say(f"error: {e.name} is not installed: run 'bash run.sh' once and use .venv/bin/python")
        return 1
    except interrupts.Interrupted as e:
        say("stopped; the model store is as it was")
        return 128 + e.number


if __name__ == "__main__":
    sys.exit(main())
