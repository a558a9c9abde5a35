"""Segmentation networks: a scan in, a mask on the scan's own grid out."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from handlers import payload, windows
from handlers.accept import chosen
from handlers.base import Handler, guard
from handlers.context import Context
from handlers.errors import ItemError, Unprocessable
from handlers.memory import memory_limit, mib, require
from handlers.passport import Passport
from handlers.progress import Progress
from handlers.runtimes import Loaded
from handlers.runtimes.device import DeviceRuntime
from handlers.volumes import masks, nifti, preparing, reading, recipe
from handlers.volumes.bounds import Buffer
from handlers.volumes.geometry import Layout, Volume

if TYPE_CHECKING:
    from handlers.gpu.volumes import Segmenter

logger = logging.getLogger(__name__)

Floats = NDArray[np.float32]

GZIP, DICOM, JSON = "application/gzip", "application/dicom", "application/json"
NIFTI = (GZIP, "application/x-gzip", "application/nifti", "application/x-nifti")

FEW, LONGEST = 8, 64
"""Names in a header of the answer, and letters of one; the JSON answer has all."""


@dataclass
class Item:
    """One request's volume, and what it takes.

    Attributes:
        device_bytes: taken on the GPU, where the network is on one; ``memory`` is the host's, but
            for the accumulators, which are on the GPU then.
        ms: milliseconds per stage of this volume alone.
    """

    volume: Volume
    memory: preparing.Memory
    device_bytes: int = 0
    ms: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Found:
    """A mask ``[z, y, x]`` on the volume's own grid, and how many windows it took."""

    mask: masks.Mask
    windows: int


class SegmentationHandler(Handler[Item, Found | ItemError]):
    """Prepares volumes as the network was trained, slides its window over them, answers masks.

    Volumes of a batch are worked on one after the other, and share the worker's memory limit.
    """

    def __init__(self, passport: Passport, loaded: Loaded, threads: int = 1):
        super().__init__(passport, loaded, threads)
        self.recipe = recipe.read(passport.settings, passport.labels, passport.outputs)
        self.limit = memory_limit()
        self._threads = windows.Pool(self._pool, threads) if self._pool else None
        self._segmenter: Segmenter | None = None
        if isinstance(self.runtime, DeviceRuntime):
            from handlers.gpu.volumes import Segmenter

            self._segmenter = Segmenter(self.runtime, passport.inputs[0].name, self.recipe)
        self._context: Context | None = None

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Context) -> list[bytes]:
        self._context = context
        self.limit = memory_limit() // max(1, len(rows))
        return super().handle(rows, context)

    def decode_batch(self, rows: Sequence[Mapping[str, Any]]) -> list[Item | ItemError]:
        return self._each(self._volume, rows)

    def _volume(self, row: Mapping[str, Any]) -> Item:
        """One volume: one file, or a form with one file per channel."""
        names = self.recipe.channel_names
        if len(names) > 1 and len(row) > 1:
            parts = [(str(name), payload.read({"body": value})) for name, value in row.items()]
            return self._timed(lambda: reading.read_channels(parts, names, self._admit))
        body = next(iter(row.values())) if len(row) == 1 else None
        if not isinstance(body, bytearray) or body[:1] == b"{":
            return self.decode(payload.read(row))
        item = self.decode(body)  # without the copy that payload.read makes
        body.clear()  # TorchServe keeps it until the answer is sent
        return item

    def decode(self, data: Buffer) -> Item:
        return self._timed(lambda: reading.read(data, self._admit))

    def infer(self, items: Sequence[Item]) -> Sequence[Found | ItemError]:
        return [guard(lambda item=item: self._segment(item)) for item in items]  # type: ignore[misc]

    def encode(self, item: Item, result: Found | ItemError, accept: str) -> tuple[bytes, str]:
        if isinstance(result, ItemError):
            raise result
        dicom = item.volume.format == "DICOM"
        offered = (DICOM, *NIFTI, JSON) if dicom else (*NIFTI, JSON, DICOM)
        wanted = chosen(accept, offered)
        if wanted == JSON:
            return json.dumps(self.statistics(item, result)).encode(), JSON
        if wanted == DICOM and not dicom:
            raise Unprocessable(
                f"a DICOM-SEG was asked for, and {item.volume.format} came: "
                "send the DICOM series, or take the mask as NIfTI"
            )
        if wanted == DICOM:
            from handlers.volumes import dicom_seg

            maker = self.passport.name, self.passport.version
            labels = list(zip(self.recipe.values, self.recipe.names, strict=True))[1:]
            return dicom_seg.write(result.mask, item.volume, labels, maker, self.note()), DICOM
        return nifti.write(result.mask, item.volume, self.note(), self._threads), GZIP

    def headers(self, item: Item, result: Found | ItemError) -> dict[str, str]:
        """What a mask file cannot say of itself, as headers of the answer."""
        memory = item.memory
        return {
            "X-Model": f"{self.passport.name} {self.passport.version}",
            "X-Runtime": self.runtime.name,
            "X-Precision": self.runtime.precision,
            "X-Fallback": self.fallback or "none",
            "X-Accumulator-Bytes": str(memory.accumulators),
            "X-Memory-Needed-Bytes": str(memory.needed),
            "X-Device-Memory-Bytes": str(item.device_bytes),
            "X-Left-Out": _listed(item.volume.left_out),
            "X-Channels": _listed([f"{name}={field}" for name, field in item.volume.channels]),
        }

    def note(self) -> str:
        """What made a mask, for the 79 characters of a NIfTI header."""
        fallback = " FALLBACK" if self.fallback else ""
        about = f"{self.runtime.name} {self.runtime.precision}{fallback}"
        return f"{about} {self.passport.name} {self.passport.version}"

    def statistics(self, item: Item, found: Found) -> dict[str, Any]:
        """The JSON answer: voxels and millilitres per label, times, memory."""
        geometry = item.volume.geometry
        counts = np.bincount(found.mask.reshape(-1), minlength=max(self.recipe.values) + 1)
        return {
            "model": self.model_info(),
            "runtime": self.runtime_info(),
            "volume": {
                "format": item.volume.format,
                "left_out": list(item.volume.left_out),
                "channels": dict(item.volume.channels),
                "shape_zyx": geometry.shape,
                "spacing_mm_zyx": [round(s, 6) for s in geometry.spacing],
                "affine_ras": geometry.affine.round(6).tolist(),
            },
            "labels": [
                {
                    "label": name,
                    "value": value,
                    "voxels": int(counts[value]),
                    "ml": round(int(counts[value]) * geometry.voxel_ml, 4),
                }
                for value, name in zip(self.recipe.values, self.recipe.names, strict=True)
            ],
            "windows": found.windows,
            "milliseconds": {stage: round(ms, 1) for stage, ms in item.ms.items()},
            "memory_bytes": {
                **asdict(item.memory),
                "limit": self.limit,
                "device": item.device_bytes,
            },
        }

    def _admit(self, layout: Layout) -> None:
        names = self.recipe.channel_names
        if layout.channels != len(names):
            raise Unprocessable(
                f"{layout.channels} values a voxel came; expected {len(names)} ({', '.join(names)})"
            )
        z, y, x = layout.geometry.shape
        what = f"a volume of {x}x{y}x{z} voxels"
        require(4 * layout.channels * layout.geometry.voxels, self.limit, what)
        require(self._memory(layout).needed, self.limit, what)

    def _memory(self, layout: Layout) -> preparing.Memory:
        return preparing.memory(layout.geometry, layout.channels, self.recipe)

    def _timed(self, read: Callable[[], Volume]) -> Item:
        begin = time.perf_counter()
        volume = read()
        layout = Layout(volume.format, volume.geometry, volume.data.dtype, len(volume.data))
        item = Item(volume, self._memory(layout))
        item.ms["decode"] = (time.perf_counter() - begin) * 1e3  # type: ignore[assignment]
        return item

    def _segment(self, item: Item) -> Found:
        with self._stage(item, "preprocess"):
            prepared = preparing.prepare(item.volume, self.recipe, self._threads)
        shape = prepared.data.shape[1:]
        slab = windows.slab(shape, self.recipe.windows, self.recipe.outputs)
        count = windows.count(shape, self.recipe.windows)
        z, y, x = item.volume.geometry.shape
        logger.info(
            "VOLUME %s: %s %dx%dx%d, %d windows on %s, accumulators %s, needs %s of %s",
            *(self.passport.name, item.volume.format, x, y, z, count, "x".join(map(str, shape))),
            *(mib(slab.bytes), mib(item.memory.needed), mib(self.limit)),
        )
        mask = np.zeros(item.volume.geometry.shape, preparing.mask_type(self.recipe))
        begin, before = time.perf_counter(), item.ms["infer"]
        progress = Progress(self.passport.name, count, self._context)
        if self._segmenter:
            self._on_device(item, prepared, mask, progress)
        else:
            found = windows.planes(
                prepared.data,
                self.recipe.windows,
                lambda patches: self._predict(patches, item),
                slab,
                progress,
                self._threads,
            )
            masks.write(found, prepared, self.recipe, slab.axis, mask)
        spent = (time.perf_counter() - begin) * 1e3 - (item.ms["infer"] - before)
        self._add(item, "postprocess", spent)
        return Found(mask, count)

    def _on_device(
        self, item: Item, prepared: preparing.Prepared, mask: masks.Mask, progress: Progress
    ) -> None:
        """Where the network is on a GPU: the sums too, and labels are all that comes back."""
        assert self._segmenter  # noqa: S101
        self._add(item, "infer", self._segmenter.segment(prepared, mask, progress))
        needs = self._segmenter.needs
        item.memory = replace(item.memory, accumulators=needs.accumulators)
        item.device_bytes = sum(needs)

    def _predict(self, patches: Floats, item: Item) -> Floats:
        """``[n, channels, *patch]`` to float32 logits; a 2-D network never sees the depth of 1."""
        given = patches[:, :, 0] if self.recipe.flat else patches
        with self._stage(item, "infer"):
            name = self.passport.inputs[0].name
            outputs = self.runtime.infer({name: given})
            (logits,) = outputs.values()
        return logits[:, :, None] if self.recipe.flat else logits

    @contextmanager
    def _stage(self, item: Item, stage: str) -> Iterator[None]:
        """Times the block, for the item's own answer and for the server's metrics."""
        begin = time.perf_counter()
        with self.stages.measure(stage):
            yield
        item.ms[stage] += (time.perf_counter() - begin) * 1e3  # type: ignore[assignment]

    def _add(self, item: Item, stage: str, ms: float) -> None:
        """Counts what something else has measured, likewise."""
        item.ms[stage] += ms  # type: ignore[assignment]
        self.stages.add(stage, ms)


def _listed(words: Sequence[str]) -> str:
    """As a header holds it: the first few, each cut, and how many more."""
    shown = [word if len(word) <= LONGEST else f"{word[:LONGEST]}..." for word in words[:FEW]]
    more = [f"{len(words) - FEW} more"] if len(words) > FEW else []
    return ", ".join(shown + more) or "none"
