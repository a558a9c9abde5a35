"""Validates an OpenAPI document, and answers against it, with packages of others.

The file is also the program that runs in an environment with these: JSON on stdin, one complaint a
line on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PACKAGES = ("openapi-spec-validator==0.9.0", "jsonschema==4.26.0")


def complaints(python: Path, document: Mapping[str, Any], bodies: list[list[Any]]) -> list[str]:
    """What is wrong.

    Args:
        python: of an environment with ``PACKAGES``.
        bodies: each a path within the document to a schema, such as ["components", "schemas",
            "Error"], and a value that must fit it.
    """
    told = json.dumps({"document": document, "bodies": bodies})
    done = subprocess.run(
        [python, __file__], input=told, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def main() -> None:
    from jsonschema import Draft202012Validator
    from openapi_spec_validator import OpenAPIV31SpecValidator

    told = json.load(sys.stdin)
    document = told["document"]
    for error in OpenAPIV31SpecValidator(document).iter_errors():
        print("document:", str(error).splitlines()[0])
    for path, value in told["bodies"]:
        schema = document
        for key in path:
            schema = schema[key]
        for error in Draft202012Validator(schema).iter_errors(value):
            print(f"{path}: {error.message[:300]}")


if __name__ == "__main__":
    main()
