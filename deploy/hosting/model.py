"""One archive, loaded and answered in this process."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.hosting import code
from deploy.hosting.code import HostError
from deploy.hosting.context import HostContext
from deploy.hosting.metrics import Memory, Sink
from deploy.hosting.rows import row
from deploy.hosting.unpacking import unpack
from deploy.torchserve.guard.http import PARAMETERS, READER, Refusal, unread

logger = logging.getLogger(__name__)

PASSPORT = "passport.json"
DESCRIBE = "describe"
"""TorchServe's own header for a management request; a client's is not passed on."""

THREADS = "OMP_NUM_THREADS"
_loading = threading.Lock()


@dataclass(frozen=True)
class Request:
    """One request: its body as it came, and its headers, of which content-type, content-encoding,
    accept and x-parameters (settings as a query string has them) are read."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One answer: HTTP status, media type, other headers, body."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    body: bytes


class Model:
    """A loaded archive.

    The archive's own ``handlers`` package is imported, once in a process: a second archive must
    have the same code, or is refused.

    Args:
        archive: a .mar file, which is checked and unpacked into a temporary folder by a Python
            process of its own; or the folder of an unpacked one, of which nothing runs before its
            checksums were right.
        name: in metrics; the passport's where None.
        artefact: "accelerated", or "portable" for the module that every machine can run.
        gpu: number of the GPU, where the archive runs on one; None for the first.
        threads: for the runtime and for decoding; None for ``OMP_NUM_THREADS``, else all cores.
        batch_size: the most requests that ``answer`` gets at once.
        metrics: where the handler's figures go; memory where None.
        shared: whether other processes of this machine run the same archive: a detector on a GPU is
            then held by one process for all.

    Attributes:
        passport: the archive's record, as ``passport.json`` has it.

    Raises:
        HostError: the archive is damaged, changed, foreign, of another kit's version than one that
            is loaded already, or cannot run on this machine; one line.
    """

    def __init__(
        self,
        archive: Path,
        *,
        name: str | None = None,
        artefact: str = "accelerated",
        gpu: int | None = None,
        threads: int | None = None,
        batch_size: int = 1,
        metrics: Sink | None = None,
        shared: bool = False,
    ):
        self.metrics = Memory() if metrics is None else metrics
        self._answering = threading.Lock()
        self._temporary: Path | None = None
        folder = archive
        if not archive.is_dir():
            folder = self._temporary = Path(tempfile.mkdtemp(prefix="kit-host-"))
        try:
            if self._temporary:
                unpack(archive, folder)
            self.passport = _passport(folder, archive.name)
            self.name = name or str(self.passport["name"])
            self._artefact = artefact
            with _loading, _threads(threads):
                code.use(folder, self.passport["files"], archive.name)
                self._load(folder, archive.name, gpu, batch_size, shared)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> str:
        return str(self.passport["version"])

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the archive was built for; empty where it takes any."""
        return batch_sizes(self.passport, self._artefact)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch: as many answers as requests, in their order, each with its own status.

        One batch at a time: calls of other threads wait.
        """
        answers: dict[int, Answer] = {}
        rows: dict[int, Mapping[str, Any]] = {}
        reads_settings = READER in self.passport["files"]
        for i, request in enumerate(requests):
            try:
                if not reads_settings and _header(request.headers, PARAMETERS.decode()):
                    raise unread(self.name)
                media_type = _header(request.headers, "content-type")
                rows[i] = row(request.body, media_type, self._require_json)
            except Refusal as e:
                answers[i] = error(e.status, type(e).__name__, str(e))
            except self._item_error as e:
                answers[i] = error(getattr(e, "status", 500), type(e).__name__, str(e))
        if rows:
            with self._answering:
                told = self._handled([requests[i] for i in rows], list(rows.values()))
            answers |= zip(rows, told, strict=True)
        return [answers[i] for i in range(len(requests))]

    def describe(self) -> dict[str, Any]:
        """What is loaded: model, runtime, precision, inputs, outputs, labels, gate."""
        found: dict[str, Any] = self._entry.handler.describe()
        return found

    def close(self) -> None:
        """Removes what was unpacked. The model may not be asked any more."""
        self._entry: Any = None
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _load(
        self, folder: Path, archive: str, gpu: int | None, batch_size: int, shared: bool
    ) -> None:
        try:
            surroundings = importlib.import_module("handlers.context")
            errors = importlib.import_module("handlers.errors")
            self._item_error: type[Exception] = errors.ItemError
            self._require_json = importlib.import_module("handlers.memory").require_json
            entry = importlib.import_module("handlers.entry").Entry()
            # Handlers tell a server's metrics from others by this class.
            metrics = surroundings.LocalMetrics()
            metrics.add_metric = self.metrics.add_metric
            self._context = HostContext(
                folder, self.name, metrics, self._artefact, gpu, batch_size, shared
            )
            entry.initialize(self._context)
        except Exception as e:
            lines = str(e).splitlines() or [type(e).__name__]
            line = lines[0] if type(e).__module__ == "handlers.errors" else f"{e!r:.300}"
            raise HostError(f"{archive}: {line}") from e
        self._entry = entry

    def _handled(self, requests: Sequence[Request], rows: list[Mapping[str, Any]]) -> list[Answer]:
        context = self._context
        context.begin(
            [{k: v for k, v in r.headers.items() if k.lower() != DESCRIBE} for r in requests]
        )
        try:
            bodies = self._entry.handle(rows, context)
        except Exception as e:  # handlers answer their items' errors themselves
            logger.exception("%s failed a whole batch", self.name)
            return [error(500, "InternalFault", f"the handler failed ({e!r:.200})")] * len(rows)
        if len(bodies) != len(rows):
            said = f"{len(bodies)} answers for {len(rows)} requests: none is given"
            return [error(500, "InternalFault", said)] * len(rows)
        return [
            Answer(
                context.statuses.get(i, 200),
                context.content_types.get(i, "application/octet-stream"),
                context.response_headers.get(i, {}),
                bytes(body),
            )
            for i, body in enumerate(bodies)
        ]


def batch_sizes(passport: Mapping[str, Any], artefact: str = "accelerated") -> tuple[int, ...]:
    """``Model.batch_sizes`` of a passport, in rising order."""
    options = passport["artefacts"].get(artefact, {}).get("options", {})
    profiles = [shapes[2][0] for e in options.get("engines", ()) for shapes in e.values()]
    first = [i["shape"][0] for i in passport["inputs"] if i["shape"]]
    fixed = [n for n in first if isinstance(n, int)]
    return tuple(sorted({*(options.get("batches") or profiles or fixed)}))


def error(status: int, kind: str, message: str) -> Answer:
    """An error in the shape of TorchServe's own."""
    body = json.dumps({"code": status, "type": kind, "message": message}).encode()
    return Answer(status, "application/json", {}, body)


def _passport(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads((folder / PASSPORT).read_bytes())
        if not isinstance(found["files"], dict) or "handlers/entry.py" not in found["files"]:
            raise HostError(f"{name}: its passport names no handlers/entry.py: repack its model")
    except FileNotFoundError:
        raise HostError(
            f"{name}: no {PASSPORT}: not made by this kit; repack its model with "
            "python repack/model_repack.py"
        ) from None
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise HostError(f"{name}: its passport cannot be read ({e!r:.100})") from None
    return dict(found)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Handlers read the number of their threads from the environment while they load."""
    before = os.environ.get(THREADS)
    if count is not None:
        os.environ[THREADS] = str(count)
    try:
        yield
    finally:
        if count is not None:
            os.environ.pop(THREADS)
            if before is not None:
                os.environ[THREADS] = before


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((v for k, v in headers.items() if k.lower() == name), "")
