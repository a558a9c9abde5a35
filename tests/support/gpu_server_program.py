"""A GPU server without a GPU: its pictures are words, and what it is to do stands in them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from handlers.boxes import CANDIDATES, COLUMNS
from handlers.gpu.server import process
from handlers.gpu.server.jobs import Picture, Rows, Work
from handlers.gpu.server.wire import slot_bytes

SETTINGS = {
    "confidence": 0.25,
    "iou": 0.45,
    "max_detections": 300,
    "head": {"name": "scored", "classes": 1},
}
JPEG = b"\xff\xd8"
SLOW = "GPU_SERVER_TEST_SLOW_S"
UNFIT = "GPU_SERVER_TEST_UNFIT"
LOADING = "GPU_SERVER_TEST_LOADING_S"
WORDS = {"crowd": -1, "fails to start": -2, "fails to finish": -3}


def number_of(data: bytes | memoryview) -> int:
    """What a real picture's box is made of: what its bytes add up to."""
    return sum(data) % 100


class Words:
    """Each picture is a number: it has one box, whose edges are that number."""

    chunk = 16
    slot = slot_bytes(SETTINGS)
    threads: ClassVar[set[threading.Thread]] = set()

    def begin(self) -> None:
        self.threads.add(threading.current_thread())

    def _begun(self) -> None:
        if threading.current_thread() not in self.threads:
            os._exit(7)

    def decode(self, pictures: Sequence[Picture]) -> list[int]:
        self._begun()
        found = []
        for picture in pictures:
            if picture.picture is not None:
                found.append(int(picture.picture.pixels.max()))
                continue
            if bytes(picture.data[:2]) == JPEG:
                found.append(number_of(picture.data))
                continue
            word = bytes(picture.data).decode().strip()
            if word == "die":
                os._exit(9)
            if word == "hang":
                time.sleep(600)
            if word == "bad":
                raise RuntimeError("not a JPEG\nmore about it")
            if word == "broken":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            found.append(WORDS[word] if word in WORDS else int(word))
        return found

    def start(self, pictures: Sequence[Picture], decoded: Sequence[list[int]]) -> list[int]:
        self._begun()
        time.sleep(float(os.environ.get(SLOW, "0")))
        numbers = [number for part in decoded for number in part]
        if WORDS["fails to start"] in numbers:
            raise RuntimeError("CUDA error: out of memory")
        return numbers

    def finish(
        self, pictures: Sequence[Picture], ticket: list[int]
    ) -> tuple[list[Rows], list[Any], dict[str, float]]:
        """The stage "infer" is the square of the batch's size: each picture's share is its size."""
        self._begun()
        if WORDS["fails to finish"] in ticket:
            raise RuntimeError("no answer")
        if len({picture.every for picture in pictures}) > 1:
            os._exit(8)
        rows = []
        for picture, number in zip(pictures, ticket, strict=True):
            count = 3 if picture.every else CANDIDATES if number == WORDS["crowd"] else 1
            row = np.full((count, COLUMNS), max(number, 0), np.float32)
            row[:, 3:5] += 10
            row[:, 5:] = (0.9, 0)
            rows.append(row)
        return (
            rows,
            [(0.5, 0.5, number, 7) for number in ticket],
            {"infer": float(len(ticket) ** 2)},
        )


def load(folder: Path, name: str, gpu: int, threads: int) -> tuple[dict[str, Any], Work | None]:
    """As ``process.load``; the environment says how it goes."""
    time.sleep(float(os.environ.get(LOADING, "0")))
    reason = os.environ.get(UNFIT)
    if reason == "crash":
        raise SystemExit("the driver is gone")
    return ({"unfit": reason}, None) if reason else ({"precision": "f16", "note": ""}, Words())


if __name__ == "__main__":
    process.load = load
    status = 1
    try:
        status = process.main()
    except SystemExit as e:
        print(e)
    finally:
        sys.stdout.flush()
        os._exit(status)
