"""Manifests against the schemas that clusters hold them to.

The file is the program that runs in an environment with ``PACKAGES``: paths in, one line for each
fault out.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("kubernetes-validate==1.37.0",)
UNKNOWN = ("ServiceMonitor",)
"""Kinds of other projects, whose schema is not here."""


def faults(python: Path, manifests: Sequence[Path], definitions: Sequence[Path]) -> list[str]:
    """What is wrong, a line each.

    Args:
        python: of an environment with ``PACKAGES``.
        definitions: files of CustomResourceDefinitions.
    """
    command = [python, __file__, *manifests, "--", *definitions]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def strict(schema: Any) -> Any:
    """The schema without its tolerance: a cluster drops unknown fields in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    keeps = found.get("x-kubernetes-preserve-unknown-fields")
    if isinstance(found.get("properties"), dict) and not keeps:
        found.setdefault("additionalProperties", False)
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    return found


def checked(manifests: Sequence[str], definitions: Sequence[str]) -> Iterator[str]:
    """In the other environment."""
    yaml: Any = importlib.import_module("yaml")
    jsonschema: Any = importlib.import_module("jsonschema")
    kubernetes: Any = importlib.import_module("kubernetes_validate")
    known: dict[tuple[str, str], Any] = {}
    for path in definitions:
        for definition in yaml.safe_load_all(Path(path).read_text()):
            told = definition["spec"]
            for version in told["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                known[f"{told['group']}/{version['name']}", told["names"]["kind"]] = schema
    for path in manifests:
        for document in yaml.safe_load_all(Path(path).read_text()):
            key = (document["apiVersion"], document["kind"])
            where = f"{Path(path).name}, {document['kind']} {document['metadata']['name']}"
            if key in known:
                for error in jsonschema.Draft202012Validator(known[key]).iter_errors(document):
                    yield f"{where}: {error.json_path}: {error.message}".splitlines()[0]
            elif document["kind"] not in UNKNOWN:
                try:
                    kubernetes.validate(document, "1.37", strict=True)
                except Exception as e:
                    yield f"{where}: {e}".splitlines()[0]


if __name__ == "__main__":
    middle = sys.argv.index("--")
    print("\n".join(checked(sys.argv[1:middle], sys.argv[middle + 1 :])), end="")
