"""Send a picture to the server, print what it detects or save it with the boxes drawn.

python examples/client.py img.jpg
python examples/client.py img.jpg --save out.jpg
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import requests

JSON, JPEG = "application/json", "image/jpeg"
ENV = {"HOST": "127.0.0.1", "PORT": "8080", "NAME": "fd1"} | os.environ
DEFAULT_URL = f"http://{ENV['HOST']}:{ENV['PORT']}/predictions/{ENV['NAME']}"

LOST = (500, 502, 503)
"""Statuses of a request that was lost, or met a full queue."""

LONGEST_WAIT_S = 3.0
"""Between two attempts, the first of which are 0.2 s apart."""


class ClientError(Exception):
    """One line for the user."""


def predict(
    url: str, picture: bytes, accept: str = JSON, token: str | None = None, retries: int = 0
) -> bytes:
    """The server's answer to one picture (JPEG, PNG, WebP or BMP bytes).

    Args:
        url: ``http://host:port/predictions/model``.
        accept: ``application/json`` for detections, ``image/jpeg`` for the drawn picture.
        token: only where the server asks for one.
        retries: how often a request that got no answer, or 500, 502 or 503, is sent again; an
            answer depends on its request alone, so nothing happens twice.
    """
    headers = {"Accept": accept}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    for attempt in range(retries + 1):
        again = attempt < retries
        try:
            answer = requests.post(url, data=picture, headers=headers, timeout=60)
            if answer.status_code not in LOST or not again:
                break
        except requests.Timeout:
            raise ClientError(f"{url}: no answer in 60 s") from None
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if not again:
                raise ClientError(f"nothing answers at {url}: start it with bash run.sh") from None
        except requests.RequestException as e:
            raise ClientError(f"{url}: {e}") from None
        time.sleep(min(0.2 * 2**attempt, LONGEST_WAIT_S))
    if answer.ok:
        return answer.content
    try:
        reason = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:200]
    raise ClientError(f"{url} answered {answer.status_code}: {reason}")


def detect(
    url: str, picture: bytes, token: str | None = None, retries: int = 0
) -> list[dict[str, Any]]:
    """Detections as in the answer: class, class_id, confidence, box (x1, y1, x2, y2 in pixels)."""
    found: list[dict[str, Any]] = json.loads(predict(url, picture, JSON, token, retries))[
        "detections"
    ]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Detect objects in a picture.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--url", default=DEFAULT_URL, help="default: as run.sh's HOST, PORT, NAME")
    parser.add_argument("--save", type=Path, help="write the picture with its boxes here")
    parser.add_argument("--token", help="where the server asks for one")
    parser.add_argument("--retries", type=int, default=0, help="times a lost request is sent again")
    args = parser.parse_args()
    try:
        picture = args.picture.read_bytes()
        if args.save:
            args.save.write_bytes(predict(args.url, picture, JPEG, args.token, args.retries))
            print(args.save)
            return 0
        for d in detect(args.url, picture, args.token, args.retries):
            x1, y1, x2, y2 = d["box"]
            print(f"{d['class']:<16} {d['confidence']:.2f}  {x1:.1f},{y1:.1f} - {x2:.1f},{y2:.1f}")
    except (ClientError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
