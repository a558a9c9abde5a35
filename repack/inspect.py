"""Shows an archive's passport to a person.

    python -m repack.inspect model_store/fd1.mar [--json]

The archive is checked on the way: structure, bounds and every file's checksum.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.artefact import Artefact
from handlers.errors import KitError
from handlers.passport import Passport, TensorSpec
from repack import archive
from repack.report import words

MANY = 100
"""How many class names are shown."""


def main() -> int:
    """Prints one archive's passport; 1 if it is refused."""
    parser = argparse.ArgumentParser(
        prog="python -m repack.inspect", description=__doc__.splitlines()[0]
    )
    parser.add_argument("archive", type=Path)
    parser.add_argument("--json", action="store_true", help="the passport itself")
    given = parser.parse_args()
    try:
        passport = archive.verify(given.archive)
    except KitError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(passport.to_json() if given.json else text(passport, given.archive))
    return 0


def text(p: Passport, path: Path) -> str:
    """The passport in lines of plain words."""
    source = p.source
    settings = {k: v["name"] if k == "head" else v for k, v in p.settings.items()}
    lines = [
        f"{path.name}: {p.name} {p.version}, {p.task}, {path.stat().st_size / 1e6:.1f} MB, "
        f"all {len(p.files)} checksums right",
        f"  made from   {source['file']} ({source['family']} {source['network']}, "
        f"sha256 {source['sha256'][:12]}...)",
        f"  with        {', '.join(f'{k} {v}' for k, v in p.versions.items())}",
        *(f"  input       {_tensor(s)}" for s in p.inputs),
        *(f"  output      {_tensor(s)}" for s in p.outputs),
        f"  classes     {_classes(p.labels)}",
        f"  code        {_code(p)}",
        f"  settings    {', '.join(f'{k} {v}' for k, v in settings.items()) or 'none'}",
    ]
    for name, artefact in p.artefacts.items():
        lines += _artefact(name, artefact, p.gate.get(name, {}))
    page = path.with_suffix(".report.html")
    lines.append(f"  report      {page if page.is_file() else 'none beside the archive'}")
    return "\n".join(lines)


def _code(p: Passport) -> str:
    foreign = archive.foreign_code(p)
    return f"not this kit's: {foreign}; trust its maker, or leave it" if foreign else "this kit's"


def _classes(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:MANY]) or "none"
    return shown if len(labels) <= MANY else f"{shown}, ... ({len(labels)} in all)"


def _tensor(s: TensorSpec) -> str:
    span = f", {s.range[0]:g} to {s.range[1]:g}" if s.range else ""
    span += f", {' or '.join(f'{v:g}' for v in s.values)}" if s.values else ""
    return f"{s.name}: {s.dtype} [{', '.join(map(str, s.shape))}]{span} {s.layout}".rstrip()


def _artefact(name: str, a: Artefact, gate: Mapping[str, Any]) -> list[str]:
    shares = ", ".join(f"{k} {v:.0%}" for k, v in a.precision_found["flops"].items())
    lines = [
        f"  {name}",
        f"    runtime   {a.runtime}, ends in {a.output}",
        f"    precision asked {a.precision_asked}, found {a.precision_found['label']} "
        f"(multiply-adds: {shares})",
    ]
    if not gate:
        return [*lines, "    gate      no record"]
    if gate["passed"] is None:
        return [*lines, f"    gate      {gate['note']}"]
    counts = ", ".join(f"{n} {kind}" for kind, n in gate["inputs"].items())
    lines.append(f"    gate      {'passed' if gate['passed'] else 'FAILED'} on {counts} inputs")
    for output, figures in gate["outputs"].items():
        shown = ", ".join(f"{k} {v:g}" for k, v in figures.items())
        lines.append(f"      {output}: {shown}")
    for key, value in gate["task"].items():
        if not key.endswith("map"):
            lines.append(f"      {key}: {value}")
        elif isinstance(value, dict):
            for which in ("original", "converted"):
                scores = [f"{words.figure(k)} {v:.4f}" for k, v in value[which].items()]
                lines.append(f"      {', '.join(scores)} {which}")
        else:
            lines.append(f"      {words.figure(f'{key}50_95').removesuffix('50-95')} {value}")
    return lines


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "| head" is no error
    sys.exit(main())
