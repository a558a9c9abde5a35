"""``python -m repack``: one name for what the package does.

python -m repack pack --weights best.pt --name fd1
"""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "pack": ("repack.model_repack", "turn a checkpoint into a verified archive"),
    "inspect": ("repack.inspect", "check an archive and show its passport"),
    "report": ("repack.report.__main__", "make the report's page again from its data"),
    "info": ("repack.backends.tensorrt.info", "show TensorRT, CUDA, driver and GPU"),
}


def main() -> int:
    """Runs the command that is named first; lists them where it is none of them."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        lines = [f"  {command:<9}{text}" for command, (_, text) in COMMANDS.items()]
        shown = "\n".join(["usage: python -m repack COMMAND [--help]", "", *lines])
        if name in ("", "-h", "--help"):
            print(shown)
            return 0
        print(f"error: no command {name!r}; there is {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    del sys.argv[1]
    status: int = import_module(COMMANDS[name][0]).main()
    return status


if __name__ == "__main__":
    sys.exit(main())
