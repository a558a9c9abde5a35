"""Real models that others wrote: packed, served, compared with the original in its own runtime.

Runs in the kit's environment, from the project's root:

    python -m tests.parity.any_model --work FOLDER [--store FOLDER] [--models NAME ...]

Each package of ``any_model_table.py`` gets an environment of its own under
``FOLDER/environments``, made from pinned versions where it is not there yet;
``make_any_model_reference.py`` runs in it and writes the models, what they were asked, and what the
package's own runtime answered. Packages that need only PyTorch see the kit's, by a ``.pth`` file.

Each model is packed by the command line, once for every backend in f32 and once with
what the kit chooses. The archives' handlers are asked here; those of the kit's choice also in a
real TorchServe. What came of it is kept in ``FOLDER/results.json``, also of models that another run
was for, and the table of all of them written to ``docs/models.md``. Exit code 3 where an archive
that was packed as f32 answers otherwise than the original, or a model is refused unexpectedly.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
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
from tests.parity.any_model_table import ENVIRONMENTS, MODELS
from tests.support.servers import serving, settings_for

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "models.md"
MAKER = Path(__file__).with_name("make_any_model_reference.py")
BACKENDS = ("torchscript", "onnxruntime", "openvino")

WRONG = "packed, but wrong:"
ADVICE = re.compile(r"; \w+ f32 takes this model and passed the gate: .*")
"""What a refusal of one backend says of another."""

Arrays = dict[str, NDArray[Any]]


class Wrong(ValueError):
    """An archive answers what nothing can be compared with: another shape, a status, a fallback."""


@dataclass
class Difference:
    """The largest differences of any value, absolute and relative to the original's."""

    absolute: float = 0.0
    relative: float = 0.0
    inside: bool = True

    def take(self, theirs: NDArray[Any], ours: NDArray[Any]) -> None:
        """Adds one output; ``inside`` is whether every value is within the bounds of f32.

        Raises:
            Wrong: another shape or type of numbers.
        """
        if theirs.shape != ours.shape or theirs.dtype.kind != ours.dtype.kind:
            raise Wrong(f"{ours.dtype}{ours.shape}, the original {theirs.dtype}{theirs.shape}")
        usual = np.isfinite(theirs) & np.isfinite(ours)
        if not np.array_equal(theirs[~usual], ours[~usual], equal_nan=theirs.dtype.kind == "f"):
            raise Wrong("NaN or infinity where the original has a number, or the reverse")
        a, b = theirs[usual].astype(np.float64), ours[usual].astype(np.float64)
        error, size = np.abs(a - b), np.abs(a)
        bounds = TOLERANCES["f32"]
        self.absolute = max(self.absolute, float(error.max(initial=0)))
        relative = error / np.maximum(size, 1e-3)
        self.relative = max(self.relative, float(relative.max(initial=0)))
        fits = error <= (bounds.atol or 0) + (bounds.rtol or 0) * size
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
    flags = ["--weights", str(model), "--samples", str(model.parent / "inputs"), "--name", name]
    flags += ["--model-store", str(store), *MODELS[name].flags, *chosen]
    command = [sys.executable, "repack/model_repack.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no output"]
    line = next((line for line in lines if line.startswith("error: ")), lines[-1])
    return line.removeprefix("error: ").replace(f"{model}: ", "").replace("|", "\\|")


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
            raise Wrong(told["fallback"])
        with np.load(io.BytesIO(ask(body, NPZ))) as answer:
            wanted = loaded(folder / "answers" / question.name)
            if set(wanted) != set(answer):
                raise Wrong(f"{list(answer)}, not {list(wanted)}")
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
        context.headers = {"accept": accept}
        (answer,) = entry.handle([{"body": bytearray(body)}], context)
        if context.statuses != [200]:
            raise Wrong(answer[:300].decode())
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
                        raise Wrong(answer.text[:300])
                    return answer.content

                return ask

            yield ask_for


def pack_all(name: str, work: Path, store: Path) -> Result:
    """Packs a model for every backend, asks each archive; the kit's choice stays in the store."""
    entered = MODELS[name]
    folder = reference(entered.environment, work) / name
    model = folder / f"model{entered.suffix}"
    words = ["--weights", model.name, "--samples", "inputs", "--name", name, *entered.flags]
    result = Result(" ".join(words))
    for backend in (*BACKENDS, "auto"):
        with TemporaryDirectory() as tmp:
            own = backend == "auto"
            into = store if own else Path(tmp)
            chosen = [] if own else ["--backend", backend, "--precision", "f32"]
            became = Packed(error=pack(name, model, into, *chosen))
            if not became.error and not own:
                try:
                    became.label, became.local = compare(folder, locally(into / f"{name}.mar"))
                except Wrong as e:
                    became.error = f"{WRONG} {e}"
        result.packed[backend] = became
        print(name, backend, became, flush=True)
    return result


def ask_all(results: Mapping[str, Result], work: Path, store: Path) -> None:
    """Serves what was packed, and asks each as its original was asked."""
    names = [name for name, result in results.items() if not result.packed["auto"].error]
    if not names:
        return
    with served(store, names) as ask_for:
        for name in names:
            folder = reference(MODELS[name].environment, work) / name
            became = results[name].packed["auto"]
            try:
                became.label, became.served = compare(folder, ask_for(name))
            except Wrong as e:
                became.error = f"{WRONG} {e}"
            print(name, "served", became, flush=True)


def wrong(results: Mapping[str, Result]) -> list[str]:
    """What is no good news: an f32 archive that differs, a refusal that nobody expected."""
    found = []
    for name, result in results.items():
        words = MODELS[name].refused
        for backend, became in result.packed.items():
            if became.error.startswith(WRONG):
                found.append(f"{name} {backend}: {became.error}")
            for difference in (became.local, became.served):
                if difference and became.label.endswith("f32") and not difference.inside:
                    found.append(f"{name} {backend}: differs by {difference.absolute:.3g}")
        error = result.packed["auto"].error
        if bool(words) != bool(error) or words not in error:
            found.append(f"{name}: {error or 'packed'}, expected {words or 'an archive'}")
    return found


def remember(results: Mapping[str, Result], file: Path) -> dict[str, Any]:
    """Adds to what earlier runs kept; returns all, in the order of ``MODELS``."""
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept |= {name: asdict(result) for name, result in results.items()}
    kept = {name: kept[name] for name in MODELS if name in kept}
    file.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    return kept


def tables(kept: Mapping[str, Any]) -> dict[str, str]:
    """The rows of the page's tables, by the heading that each stands under."""
    found: dict[str, list[str]] = {"Results": [], "Commands": [], "Not packed": []}
    for name, result in kept.items():
        entered, packed = MODELS[name], result["packed"]
        pins = ENVIRONMENTS[entered.environment].pins or (f"onnx=={version('onnx')}",)
        about = f"| `{name}` | {entered.what} | {pins[0].replace('==', ' ')} |"
        if packed["auto"]["error"]:
            found["Not packed"].append(f"{about} {packed['auto']['error']} |")
            continue
        good = [backend for backend in BACKENDS if packed[backend]["local"]]
        tried = [b for b in BACKENDS if (b, entered.suffix) != ("torchscript", ".onnx")]
        errors = [ADVICE.sub("", packed[b]["error"]) for b in tried]
        why = "; ".join(filter(None, errors))
        most = {k: max(packed[b]["local"][k] for b in good) for k in ("absolute", "relative")}
        auto = packed["auto"]
        cells = (", ".join(good), why, shown(most), auto["label"], shown(auto["served"]))
        found["Results"].append(f"{about} {' | '.join(cells)} |")
        found["Commands"].append(f"| `{name}` | `{result['command']}` |")
    return {heading: "".join(f"{row}\n" for row in rows) for heading, rows in found.items()}


def shown(difference: Mapping[str, float]) -> str:
    return f"{difference['absolute']:.2g} / {difference['relative']:.2g}"


def written(page: str, kept: Mapping[str, Any]) -> str:
    """The page with the rows of its tables written anew."""
    for heading, rows in tables(kept).items():
        before, head, rest = page.partition(f"## {heading}\n")
        found = re.search(r"\|[-|]+\|\n((?:\|.*\n)*)", rest)
        if not found:
            raise SystemExit(f"error: {PAGE} has no table under {heading!r}")
        page = before + head + rest[: found.start(1)] + rows + rest[found.end() :]
    return page


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments and references")
    parser.add_argument("--store", type=Path, help="archives; a temporary folder if left out")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    given = parser.parse_args()
    work = given.work.resolve()
    with TemporaryDirectory() as tmp:
        store = (given.store or Path(tmp)).resolve()
        results = {name: pack_all(name, work, store) for name in given.models}
        ask_all(results, work, store)
    kept = remember(results, work / "results.json")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), kept), encoding="utf-8")
    failures = wrong(results)
    print("\n".join(failures) or f"all {len(results)} models as expected")
    return 3 if failures else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
