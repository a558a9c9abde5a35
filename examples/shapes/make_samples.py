"""Write the sample pictures and their labels.

    python examples/shapes/make_samples.py                 # examples/pictures

Twelve held-out scenes of different sizes as JPEG files, one of them stored on its side with an EXIF
orientation, and for each a label file in YOLO's format: class, then the box's centre x and y, width
and height as shares of the picture as it is shown.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from examples.shapes.scenes import CLASSES, HELD_OUT_SEED, scene

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
FIRST = 100_000
"""Index of the first sample: beyond the scenes that the model is scored on."""
SIZES = (
    (640, 640),
    (1280, 720),
    (800, 600),
    (480, 640),
    (720, 1280),
    (1024, 768),
    (500, 333),
    (960, 540),
    (900, 900),
    (600, 800),
    (1200, 500),
    (427, 640),
)
"""Width and height of each sample, as shown."""
ON_ITS_SIDE = 4
"""The sample that is stored turned by a quarter, with EXIF orientation 6."""
LEAST_SHAPES, LARGEST_FILE = 3, 80_000
_ORIENTATION_TAG, _TURN_RIGHT = 0x0112, 6


def sample(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """Sample ``number``'s picture as shown, boxes and classes, as ``scene`` gives them.

    It is the first scene from ``FIRST + 100 * number`` on that holds ``LEAST_SHAPES`` or more.
    """
    width, height = SIZES[number]
    for index in range(FIRST + 100 * number, FIRST + 100 * (number + 1)):
        picture, boxes, classes = scene(HELD_OUT_SEED, index, width, height)
        if len(boxes) >= LEAST_SHAPES:
            return picture, boxes, classes
    raise RuntimeError(f"no scene of {LEAST_SHAPES} shapes among 100")


def jpeg(picture: NDArray[np.uint8], on_its_side: bool) -> bytes:
    """JPEG file of a picture ``[H, W, 3]`` RGB, at the best quality that fits the file limit."""
    exif = Image.Exif()
    if on_its_side:
        exif[_ORIENTATION_TAG] = _TURN_RIGHT
        picture = np.rot90(picture)
    image = Image.fromarray(np.ascontiguousarray(picture))
    data = b""
    for quality in range(95, 30, -5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, exif=exif)
        data = out.getvalue()
        if len(data) <= LARGEST_FILE:
            break
    return data


def labels(boxes: NDArray[np.float32], classes: NDArray[np.int64], width: int, height: int) -> str:
    """One line per shape: class, centre x and y, width and height, each 0..1 of the picture."""
    lines = []
    for kind, (x1, y1, x2, y2) in zip(classes.tolist(), boxes.tolist(), strict=True):
        numbers = (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        )
        lines.append(f"{kind} " + " ".join(f"{n:.6f}" for n in numbers) + "\n")
    return "".join(lines)


def write(folder: Path = PICTURES) -> list[Path]:
    """Write every sample and its labels under ``folder``; returns the pictures' paths."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    written = []
    for number, (width, height) in enumerate(SIZES):
        picture, boxes, classes = sample(number)
        path = folder / f"shapes{number + 1:02d}.jpg"
        path.write_bytes(jpeg(picture, number == ON_ITS_SIDE))
        text = labels(boxes, classes, width, height)
        (folder / "labels" / f"{path.stem}.txt").write_text(text)
        written.append(path)
    return written


def main() -> None:
    """Write the samples and list them."""
    parser = argparse.ArgumentParser(description="Write the sample pictures and their labels.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder to write into")
    for path in write(parser.parse_args().out):
        print(f"{path.name}  {path.stat().st_size / 1000:.0f} KB")
    print(f"classes: {', '.join(CLASSES)}")


if __name__ == "__main__":
    main()
