"""Real models that others wrote: packed, served, compared with the original in its own runtime.

Runs in the kit's environment, from the project's root:

    python -m tests.parity.any_model --work FOLDER [--store FOLDER] [--models NAME ...]

Each package of ``ENVIRONMENTS`` gets an environment of its own under ``FOLDER/environments``, made
from pinned versions where it is not there yet; ``make_any_model_reference.py`` runs in it and
writes the models, what they were asked, and what the package's own runtime answered. Packages that
need only PyTorch see the kit's, by a ``.pth`` file.

Each model of ``MODELS`` is packed by the command line, once for every backend in f32 and once with
what the kit chooses. The archives' handlers are asked here; those of the kit's choice also in a
real TorchServe. Writes the table ``docs/models.md`` when all models ran; exit code 3 where an
archive that was packed as f32 answers otherwise than the original.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import requests
import torch
from numpy.typing import NDArray

from handlers.context import LocalContext
from handlers.entry import Entry
from handlers.tensors import NPZ, npz
from repack import archive
from repack.tolerances import TOLERANCES
from tests.support.servers import serving, settings_for

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
MAKER = Path(__file__).with_name("make_any_model_reference.py")
BACKENDS = ("torchscript", "onnxruntime", "openvino")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Environment:
    """Where a package's models come from.

    Attributes:
        pins: what pip installs, the package itself first; empty for the kit's own environment.
        on_torch: needs PyTorch alone, or what the kit has beside it: the kit's is seen.
    """

    pins: tuple[str, ...]
    on_torch: bool = False


ENVIRONMENTS = {
    "rapidocr": Environment(("rapidocr-onnxruntime==1.4.4", "onnxruntime==1.31.1")),
    "magika": Environment(("magika==1.0.3", "onnxruntime==1.31.1")),
    "ddddocr": Environment(("ddddocr==1.6.1", "onnxruntime==1.31.1")),
    "nudenet": Environment(("nudenet==3.4.2", "onnxruntime==1.31.1")),
    "silero": Environment(("silero-vad==6.2.3",), on_torch=True),
    "sklearn": Environment(("skl2onnx==1.20.0", "scikit-learn==1.9.1", "onnx==1.23.2")),
    "timm": Environment(("timm==1.0.31", "huggingface_hub==2.4.0"), on_torch=True),
    "transformers": Environment(
        (
            *("transformers==5.23.0", "huggingface_hub==2.4.0", "tokenizers==0.23.3"),
            *("regex==2026.11.19", "tqdm==4.70.1", "httpx2==2.16.2", "httpcore2==2.16.2"),
            *("anyio==4.16.0", "h11==0.16.0", "truststore==0.10.5", "typer==0.29.2"),
            *("click==8.5.1", "shellingham==1.5.4", "annotated-doc==0.0.7"),
        ),
        on_torch=True,
    ),
    "onnx": Environment(()),
}


@dataclass(frozen=True)
class Entered:
    """A model of the table.

    Attributes:
        what: what it is, for the page.
        environment: key of ``ENVIRONMENTS``.
        suffix: of its file.
        flags: what its packing needs beside ``--weights`` and ``--name``.
        refused: words of the one line that refuses it, where the kit is right not to pack it.
    """

    what: str
    environment: str
    suffix: str = ".onnx"
    flags: tuple[str, ...] = ()
    refused: str = ""


PICTURES = ("--input-shape", "x=batchx3x224x224")
TOKENS = tuple(
    word
    for name in ("input_ids", "attention_mask", "token_type_ids")
    for word in ("--input-shape", f"{name}=int64:batchxtokens")
)
RATE = ("--input-values", "sr=16000")
FRAME = ("--input-shape", "input=1x576", "--input-shape", "state=2x1x128")

MODELS: Mapping[str, Entered] = {
    "rapidocr-detector": Entered(
        "PP-OCRv4, where text stands", "rapidocr", flags=("--input-shape", "x=batchx3x320x320")
    ),
    "rapidocr-recogniser": Entered("PP-OCRv4, what a line says", "rapidocr"),
    "rapidocr-classifier": Entered("PP-OCR, which way up a line is", "rapidocr"),
    "magika": Entered("kinds of files by their bytes", "magika"),
    "ddddocr-reader": Entered("short words (`common_old.onnx`)", "ddddocr"),
    "ddddocr-reader-beta": Entered("short words (`common.onnx`)", "ddddocr"),
    "ddddocr-detector": Entered("characters in a picture", "ddddocr"),
    "nudenet": Entered(
        "YOLOv8 detector, raw maps", "nudenet", flags=("--input-shape", "images=batchx3x320x320")
    ),
    "silero-vad": Entered("voice activity", "silero", flags=(*FRAME, *RATE)),
    "silero-16k-op15": Entered("voice activity, opset 15", "silero", flags=(*FRAME, *RATE)),
    "silero-op18-ifless": Entered(
        "voice activity, without branches", "silero", flags=(*FRAME, *RATE)
    ),
    "silero-half": Entered("voice activity, smaller", "silero", flags=FRAME),
    "silero-openvino-16k": Entered("voice activity, for OpenVINO", "silero"),
    "silero-16k-sequence": Entered("voice activity, many frames a call", "silero"),
    "silero-jit": Entered(
        "voice activity, TorchScript", "silero", ".jit",
        ("--input-shape", "x=1x512", "--input-shape", "sr=int64:", *RATE), "does not repeat itself",
    ),
    "timm-resnet18-onnx": Entered("ResNet-18", "timm"),
    "timm-resnet18-torchscript": Entered("ResNet-18", "timm", ".pt", PICTURES),
    "timm-vit-onnx": Entered("ViT-tiny", "timm"),
    "timm-vit-torchscript": Entered("ViT-tiny", "timm", ".pt", PICTURES),
    "timm-embedding-onnx": Entered("EfficientNet-B0 without classes", "timm"),
    "timm-embedding-torchscript": Entered(
        "EfficientNet-B0 without classes", "timm", ".pt", PICTURES
    ),
    "bert-onnx": Entered("BERT, two layers", "transformers"),
    "bert-torchscript": Entered("BERT, two layers", "transformers", ".pt", TOKENS),
    "sklearn-linear": Entered("scaler and logistic regression", "sklearn"),
    "sklearn-forest": Entered("random forest", "sklearn"),
    "sklearn-boosted": Entered("gradient boosting, regression", "sklearn"),
    "sklearn-zipmap": Entered(
        "logistic regression, with skl2onnx's ZipMap", "sklearn",
        refused="expected a tensor of numbers",
    ),
    "onnx-resnet50": Entered("ResNet-50, weights made up in the graph", "onnx"),
    "onnx-squeezenet": Entered("SqueezeNet, likewise", "onnx"),
    "onnx-shufflenet": Entered("ShuffleNet, likewise", "onnx"),
}  # fmt: skip


@dataclass
class Difference:
    """The largest differences of any value, absolute and relative to the original's."""

    absolute: float = 0.0
    relative: float = 0.0
    inside: bool = True

    def take(self, theirs: NDArray[Any], ours: NDArray[Any]) -> None:
        """Adds one output; ``inside`` is whether every value is within the bounds of f32.

        Raises:
            ValueError: another shape or type of numbers.
        """
        if theirs.shape != ours.shape or theirs.dtype.kind != ours.dtype.kind:
            raise ValueError(f"{ours.dtype}{ours.shape}, the original {theirs.dtype}{theirs.shape}")
        a, b = theirs.astype(np.float64), ours.astype(np.float64)
        error = np.where(a == b, 0.0, np.abs(a - b))  # infinity is where infinity is
        bounds = TOLERANCES["f32"]
        self.absolute = max(self.absolute, float(error.max(initial=0)))
        floor = np.maximum(np.abs(a), 1e-3)
        self.relative = max(self.relative, float(np.nan_to_num(error / floor).max(initial=0)))
        fits = error <= (bounds.atol or 0) + (bounds.rtol or 0) * np.abs(a)
        self.inside = self.inside and bool(fits.all())


@dataclass
class Packed:
    """What became of a model under one backend.

    Attributes:
        label: what runs, as the archive answers it: "openvino bf16".
        error: the line that refused it; "" where it was packed.
    """

    label: str = ""
    error: str = ""
    local: Difference | None = None
    served: Difference | None = None


@dataclass
class Result:
    """What became of a model, by backend; "auto" is the kit's own choice."""

    command: str
    packed: dict[str, Packed] = field(default_factory=dict)


def environment(name: str, work: Path) -> Path:
    """The Python of a package's environment, which is made where it is not there yet."""
    told = ENVIRONMENTS[name]
    if not told.pins:
        return Path(sys.executable)
    folder = work / "environments" / name
    python, done = folder / "bin" / "python", folder / "done"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        alone = ["--no-deps"] if told.on_torch else []
        install = [str(python), "-m", "pip", "install", "--quiet", *alone, *told.pins]
        subprocess.run(install, check=True)
        if told.on_torch:
            (own,) = (folder / "lib").glob("python*/site-packages")
            (own / "kit.pth").write_text(f"{Path(torch.__file__).parents[1]}\n", encoding="utf-8")
        done.touch()
    return python


def reference(name: str, work: Path) -> Path:
    """The folder with a package's models, questions and answers, made where it is not there yet."""
    folder = work / "references" / name
    if not folder.is_dir():
        python = environment(name, work)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as tmp:
            made = Path(tmp) / name
            made.mkdir()
            subprocess.run([str(python), str(MAKER), name, str(made)], check=True)
            made.rename(folder)
    return folder


def pack(name: str, model: Path, store: Path, *chosen: str) -> str:
    """Packs one archive; returns the line that refused it, or ""."""
    flags = ["--weights", str(model), "--name", name, "--model-store", str(store)]
    command = [sys.executable, "-m", "repack", *flags, *MODELS[name].flags, *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
    return next((line for line in lines if line.startswith("error:")), lines[-1])


def loaded(file: Path) -> Arrays:
    with np.load(file) as data:
        return dict(data)


def compare(folder: Path, ask: Any) -> tuple[str, Difference]:
    """Asks an archive all that the original was asked.

    Args:
        ask: a request's bytes to the answer's.
    """
    found, label = Difference(), ""
    for question in sorted((folder / "inputs").glob("*.npz")):
        body = npz(loaded(question))
        told = json.loads(ask(body, "application/json"))["runtime"]
        label = f"{told['name']} {told['precision']}"
        if told["fallback"]:
            raise SystemExit(f"error: {folder.name}: {told['fallback']}")
        with np.load(io.BytesIO(ask(body, NPZ))) as answer:
            wanted = loaded(folder / "answers" / question.name)
            if set(wanted) != set(answer):
                raise SystemExit(f"error: {folder.name}: {list(answer)}, not {list(wanted)}")
            for key, value in wanted.items():
                found.take(value, answer[key])
    return label, found


def locally(packed: Path) -> Any:
    """How the archive's own handler is asked, in this process."""
    folder = packed.with_suffix("")
    archive.unpack(packed, folder)
    context, entry = LocalContext(folder), Entry()
    entry.initialize(context)

    def ask(body: bytes, accept: str) -> bytes:
        context.begin()
        context.headers = {"accept": accept}
        (answer,) = entry.handle([{"body": bytearray(body)}], context)
        if context.statuses != [200]:
            raise SystemExit(f"error: {packed.name}: {answer[:300].decode()}")
        return answer

    return ask


@contextmanager
def served(store: Path, names: Sequence[str]) -> Iterator[Any]:
    """How the archives of a store are asked in one real TorchServe: by name."""
    with TemporaryDirectory() as run:
        settings = settings_for(store, Path(run), name=names[0], startup_timeout=600)
        with serving(settings) as server:
            for name in names:
                server.wait_ready(name)

            def ask_for(name: str) -> Any:
                url = f"http://127.0.0.1:{settings.port}/predictions/{name}"

                def ask(body: bytes, accept: str) -> bytes:
                    headers = {"Content-Type": "application/octet-stream", "Accept": accept}
                    answer = requests.post(url, data=body, headers=headers, timeout=300)
                    if answer.status_code != 200:
                        raise SystemExit(f"error: {name}, served: {answer.text[:300]}")
                    return answer.content

                return ask

            yield ask_for


def run(names: Sequence[str], work: Path, store: Path) -> dict[str, Result]:
    """Packs, asks and serves the models; shows a line for each archive."""
    results = {}
    for name in names:
        entered = MODELS[name]
        folder = reference(entered.environment, work) / name
        model = folder / f"model{entered.suffix}"
        words = ["--weights", model.name, "--name", name, *entered.flags]
        results[name] = Result(" ".join(words))
        for backend in (*BACKENDS, "auto"):
            chosen = [] if backend == "auto" else ["--backend", backend, "--precision", "f32"]
            into = store if backend == "auto" else store / backend
            became = Packed(error=pack(name, model, into, *chosen))
            results[name].packed[backend] = became
            if not became.error and backend != "auto":
                with TemporaryDirectory() as tmp:
                    apart = Path(tmp) / f"{name}.mar"
                    (into / apart.name).rename(apart)
                    became.label, became.local = compare(folder, locally(apart))
            print(name, backend, became, flush=True)
    packed = [n for n in names if not results[n].packed["auto"].error]
    if packed:
        with served(store, packed) as ask_for:
            for name in packed:
                folder = reference(MODELS[name].environment, work) / name
                became = results[name].packed["auto"]
                became.label, became.served = compare(folder, ask_for(name))
                print(name, "served", became, flush=True)
    return results


def wrong(results: Mapping[str, Result]) -> list[str]:
    """What is no good news: an f32 archive that differs, a refusal that nobody expected."""
    found = []
    for name, result in results.items():
        words = MODELS[name].refused
        for backend, became in result.packed.items():
            for difference in (became.local, became.served):
                if difference and became.label.endswith("f32") and not difference.inside:
                    found.append(f"{name} {backend}: differs by {difference.absolute:.3g}")
        error = result.packed["auto"].error
        if bool(words) != bool(error) or words not in error:
            found.append(f"{name}: {error or 'packed'}, expected {words or 'an archive'}")
    return found


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments and references")
    parser.add_argument("--store", type=Path, help="archives; a temporary folder if left out")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    with TemporaryDirectory() as tmp:
        results = run(given.models, given.work.resolve(), (given.store or Path(tmp)).resolve())
    told = {name: asdict(result) for name, result in results.items()}
    text = json.dumps(told, indent=1)
    (given.work / "results.json").write_text(text, encoding="utf-8")
    failures = wrong(results)
    print("\n".join(failures) or f"all {len(results)} models as expected")
    return 3 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
