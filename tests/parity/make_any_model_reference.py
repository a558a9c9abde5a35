"""Models that others wrote, what they were asked, and what their own runtime answered.

Runs in an environment that has the package (``any_model.py`` makes it and calls this):

    python tests/parity/make_any_model_reference.py PACKAGE FOLDER

Writes ``FOLDER/NAME`` for each model of the package: the model's file, ``inputs/I.npz`` with an
array for each input, and ``answers/I.npz`` with an array for each output. ONNX models are asked by
the package's own code where it has any, and its ONNX Runtime is listened to; TorchScript answers
are those of the eager network; a scikit-learn pipeline's are those of its own ``predict``.
"""

from __future__ import annotations

import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

MOST = 6
"""Calls that are kept of one model."""

PICTURES = Path(__file__).resolve().parents[2] / "examples" / "pictures"

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call of a model: the file that answered, inputs and outputs by name."""

    file: Path
    given: Arrays
    answer: Arrays


def keep(folder: Path, name: str, calls: Sequence[Call]) -> None:
    """Writes one model's file and calls."""
    target = folder / name
    for part in ("inputs", "answers"):
        (target / part).mkdir(parents=True)
    shutil.copyfile(calls[0].file, target / f"model{calls[0].file.suffix}")
    for i, call in enumerate(calls[:MOST]):
        np.savez(target / "inputs" / f"{i}.npz", **call.given)
        np.savez(target / "answers" / f"{i}.npz", **call.answer)


def copied(arrays: Any) -> Arrays:
    """The same by name, in memory of its own."""
    return {name: np.array(value) for name, value in dict(arrays).items()}


def listened() -> list[Call]:
    """What every ONNX Runtime session of this process is asked from now on, as it comes."""
    ort: Any = import_module("onnxruntime")
    calls: list[Call] = []

    class Listened(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, path: Any, *args: Any, **options: Any) -> None:
            super().__init__(str(path), *args, **options)
            self.file = Path(path)

        def run(self, names: Any, given: Arrays, options: Any = None) -> Any:
            answer = super().run(names, given, options)
            names = names or [o.name for o in self.get_outputs()]
            # Copied: a package may decode what it got in place.
            calls.append(Call(self.file, copied(given), copied(zip(names, answer, strict=True))))
            return answer

    setattr(ort, "InferenceSession", Listened)  # noqa: B010 - its stubs do not name it
    return calls


def by_file(folder: Path, calls: Sequence[Call], names: dict[str, str]) -> None:
    """Keeps the calls under the names of the files that answered them."""
    for stem, name in names.items():
        keep(folder, name, [call for call in calls if call.file.stem == stem])


def written(cv2: Any, lines: Sequence[str], size: tuple[int, int], scale: float) -> Any:
    """A picture ``[H, W, 3]`` of black text on white."""
    picture = np.full((*size, 3), 255, np.uint8)
    for i, line in enumerate(lines):
        place = (12, int((i + 1) * size[0] / (len(lines) + 0.4)))
        cv2.putText(picture, line, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 2)
    return picture


def rapidocr(folder: Path) -> None:
    """PP-OCRv4: where text stands, whether it is upside down, what it says."""
    cv2, calls = import_module("cv2"), listened()
    ocr = import_module("rapidocr_onnxruntime").RapidOCR()
    for lines in (["Served and measured", "equal to the original"], ["one", "two 22", "3.1415"]):
        found, _ = ocr(written(cv2, lines, (60 * len(lines) + 40, 480), 1.1))
        print([text for _, text, _ in found])
    names = {"ch_PP-OCRv4_det_infer": "detector", "ch_PP-OCRv4_rec_infer": "recogniser"}
    names["ch_ppocr_mobile_v2.0_cls_infer"] = "classifier"
    by_file(folder, calls, {stem: f"rapidocr-{name}" for stem, name in names.items()})


def magika(folder: Path) -> None:
    """Tells kinds of files by their bytes."""
    calls = listened()
    teller = import_module("magika").Magika()
    files = [Path(__file__), *sorted(PICTURES.glob("*.jpg"))[:2]]
    told = [file.read_bytes() for file in files] + [b"<html><body>" + b"<p>text</p>" * 90]
    told += [b"a,b,c\n" + b"1,2.5,x\n" * 200, b'{"k": [' + b"1, " * 300 + b"2]}"]
    for data in told:
        print(teller.identify_bytes(data).output.label)
    by_file(folder, calls, {"model": "magika"})


def ddddocr(folder: Path) -> None:
    """Two readers of short words, and a detector of characters."""
    cv2, calls = import_module("cv2"), listened()
    make = import_module("ddddocr").DdddOcr
    words = [cv2.imencode(".png", written(cv2, [w], (60, 150), 1.3))[1].tobytes() for w in WORDS]
    for reader in (make(show_ad=False), make(show_ad=False, beta=True)):
        print([reader.classification(word) for word in words])
    finder = make(det=True, ocr=False, show_ad=False)
    print([finder.detection(word) for word in words[:3]])
    names = {"common_old": "reader", "common": "reader-beta", "common_det": "detector"}
    by_file(folder, calls, {stem: f"ddddocr-{name}" for stem, name in names.items()})


WORDS = ("k7Wp", "3Rtz", "HELLO", "42")


def nudenet(folder: Path) -> None:
    """A detector of 18 classes, which finds nothing in these pictures; its raw maps count."""
    calls = listened()
    detector = import_module("nudenet").NudeDetector()
    for picture in sorted(PICTURES.glob("*.jpg"))[:3]:
        print(detector.detect(str(picture)))
    by_file(folder, calls, {"320n": "nudenet"})


def speech(seconds: float, rate: int = 16000) -> Any:
    """Noise with the pitch, the formants and the syllables of a voice, between two silences."""
    rng, time = np.random.default_rng(3), np.arange(int(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 2.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = [np.exp(-(((120 * k - f) / 180) ** 2)) for k in range(1, 30) for f in (500, 1500)]
    voice = sum(formants[i] * np.sin((i // 2 + 1) * phase) for i in range(len(formants)))
    spoken = (time > 0.1) & (time < seconds - 0.1)
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1) * spoken
    return (0.1 * syllables * voice + 0.003 * rng.standard_normal(len(time))).astype(np.float32)


def silero(folder: Path) -> None:
    """Voice activity: six ONNX files and a TorchScript one, asked frame by frame."""
    package = import_module("silero_vad")
    data = Path(str(package.__file__)).parent / "data"
    ort, torch = import_module("onnxruntime"), import_module("torch")
    sound = speech(1.2)
    frames = sound[: len(sound) // 512 * 512].reshape(-1, 512)
    spoken = slice(4, 4 + MOST)
    for file in sorted(data.glob("*.onnx")):
        if "sequence" in file.stem:
            continue
        session = ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        taken = [i.name for i in session.get_inputs()]
        state, context, calls = np.zeros((2, 1, 128), np.float32), np.zeros((1, 64), "f4"), []
        for frame in frames:
            whole = np.concatenate([context, frame[None]], 1)
            given = {"input": whole, "state": state, "sr": np.array(16000, np.int64)}
            given = {name: given[name] for name in taken}
            output, after = session.run(["output", "stateN"], given)
            calls.append(Call(file, given, {"output": output, "stateN": after}))
            state, context = after, whole[:, -64:]
        print(file.stem, [round(float(c.answer["output"].max()), 3) for c in calls[spoken]])
        keep(folder, file.stem.replace("_", "-").replace("vad-", ""), calls[spoken])
    calls = listened()
    vad = import_module("silero_vad.sequence_vad")
    file = data / "silero_vad_16k_sequence.onnx"
    for seconds in (0.5, 1.2):
        vad.SileroVADSequence(str(file)).audio_forward(speech(seconds))
    by_file(folder, calls, {file.stem: "silero-16k-sequence"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(data / "silero_vad.jit"))
    calls = []
    for frame in frames[spoken]:
        module.reset_states()
        with torch.no_grad():
            answer = module(torch.from_numpy(frame[None].copy()), 16000)
        calls.append(Call(data / "silero_vad.jit", given_to_jit(frame), {"output": answer.numpy()}))
    keep(folder, "silero-jit", calls)


def given_to_jit(frame: Any) -> Arrays:
    """The arguments of silero's TorchScript module."""
    return {"x": frame[None], "sr": np.array(16000, np.int64)}


def stand_in_for_torchvision() -> None:
    """timm imports torchvision for its data sets and transforms, which no network needs.

    There is none for this CPU build of torch.
    """

    class Anything(type):
        def __getattr__(cls, name: str) -> str:
            if name.startswith("__"):
                raise AttributeError(name)
            return name

    class Empty(types.ModuleType):
        __path__: list[str] = []  # noqa: RUF012
        __version__ = "0.28.0"

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Anything(name, (), {})

    parts = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets")
    for part in parts:
        sys.modules[f"torchvision{part}"] = Empty(f"torchvision{part}")
    for part in parts[1:]:
        above, _, name = f"torchvision{part}".rpartition(".")
        setattr(sys.modules[above], name, sys.modules[f"torchvision{part}"])


def exported(
    folder: Path, name: str, network: Any, given: Sequence[Arrays], free: Sequence[Any]
) -> None:
    """A network as TorchScript and as ONNX, each with the network's own answers.

    Args:
        free: the free axes of each argument: ``{axis: its name}``.
    """
    torch = import_module("torch")
    arguments = [tuple(torch.from_numpy(v) for v in arrays.values()) for arrays in given]
    names = list(given[0])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        wanted = [network(*found) for found in arguments]
        torch.jit.save(torch.jit.trace(network, arguments[0]), str(folder / f"{name}.pt"))
        shapes = tuple({k: torch.export.Dim(v) for k, v in axes.items()} for axes in free)
        torch.onnx.export(
            network, arguments[0], str(folder / f"{name}.onnx"), input_names=names,
            dynamic_shapes=shapes, dynamo=True, external_data=False, verbose=False,
        )  # fmt: skip
    session = import_module("onnxruntime").InferenceSession(str(folder / f"{name}.onnx"))
    outputs = [o.name for o in session.get_outputs()]
    for kind, suffix in (("torchscript", ".pt"), ("onnx", ".onnx")):
        calls = []
        for arrays, answer in zip(given, wanted, strict=True):
            parts = [a.numpy() for a in (answer if isinstance(answer, tuple) else (answer,))]
            of_module = [f"output_{i}" for i in range(len(parts))] if parts[1:] else ["output"]
            told = of_module if kind == "torchscript" else outputs
            calls.append(
                Call(folder / f"{name}{suffix}", arrays, dict(zip(told, parts, strict=True)))
            )
        keep(folder, f"{name}-{kind}", calls)
        (folder / f"{name}{suffix}").unlink()


def pictures(side: int) -> Iterator[Any]:
    """Normalised pictures ``[N, 3, side, side]``, one and two at a time."""
    image = import_module("PIL.Image")
    files = sorted(PICTURES.glob("*.jpg"))
    ready = [np.asarray(image.open(f).convert("RGB").resize((side, side)), "f4") for f in files[:4]]
    stack = np.stack(ready).transpose(0, 3, 1, 2) / 127.5 - 1
    yield from (np.ascontiguousarray(stack[i : i + n]) for i, n in ((0, 2), (2, 1), (3, 1)))


NETWORKS = {"resnet18": "resnet18", "vit": "vit_tiny_patch16_224", "embedding": "efficientnet_b0"}
"""timm's names; the last without its classifier."""


def timm(folder: Path) -> None:
    """A convolutional classifier, a transformer, an embedding: random weights of a fixed seed."""
    torch = import_module("torch")
    stand_in_for_torchvision()
    create = import_module("timm").create_model
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # PyTorch's exporter looks for it, too
    given = [{"x": x} for x in pictures(224)]
    for name, network in NETWORKS.items():
        torch.manual_seed(7)
        options = {"num_classes": 0} if name == "embedding" else {}
        made = create(network, pretrained=False, **options)
        with torch.no_grad():
            made.train()(torch.randn(8, 3, 224, 224))  # batch norms that are not the identity
        exported(folder, f"timm-{name}", made.eval(), given, [{0: "batch"}])


def transformers(folder: Path) -> None:
    """BERT of random weights, two layers."""
    torch, package = import_module("torch"), import_module("transformers")
    torch.manual_seed(7)
    config = package.BertConfig(
        vocab_size=2000, hidden_size=128, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=128,
    )  # fmt: skip
    bert = package.BertModel(config).eval()

    class Answering(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bert = bert

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            found = self.bert(input_ids, attention_mask, token_type_ids)
            return found.last_hidden_state, found.pooler_output

    rng, given = np.random.default_rng(5), []
    for batch, length in ((2, 24), (1, 7), (1, 60)):
        ids = rng.integers(5, config.vocab_size, (batch, length))
        mask = np.ones_like(ids)
        mask[0, length - 3 :] = 0
        kinds = (np.arange(length) > length // 2).astype(np.int64)[None].repeat(batch, 0)
        told = {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds}
        given.append({k: np.ascontiguousarray(v, np.int64) for k, v in told.items()})
    exported(folder, "bert", Answering().eval(), given, [{0: "batch", 1: "tokens"}] * 3)


def sklearn(folder: Path) -> None:
    """Two pipelines trained on data that scikit-learn carries, as skl2onnx writes them."""
    sets = import_module("sklearn.datasets")
    ensemble, linear = import_module("sklearn.ensemble"), import_module("sklearn.linear_model")
    scaled = import_module("sklearn.pipeline").make_pipeline
    scaler = import_module("sklearn.preprocessing").StandardScaler
    to_onnx = import_module("skl2onnx").to_onnx

    def rows(data: Any) -> Any:
        return data[0].astype(np.float32), data[1]

    x, y = rows(sets.load_breast_cancer(return_X_y=True))
    linear_model = scaled(scaler(), linear.LogisticRegression()).fit(x[:400], y[:400])
    forest = ensemble.RandomForestClassifier(40, max_depth=6, random_state=0).fit(x[:400], y[:400])
    for name, model, zipmap in (
        ("linear", linear_model, False), ("zipmap", linear_model, True), ("forest", forest, False),
    ):  # fmt: skip
        file = folder / f"{name}.onnx"
        options = {} if zipmap else {"options": {id(model): {"zipmap": False}}}
        file.write_bytes(to_onnx(model, x[:1], **options).SerializeToString())
        parts = (x[400:420], x[420:421], x[421:500])
        calls = [Call(file, {"X": part}, answer_of(model, part)) for part in parts]
        keep(folder, f"sklearn-{name}", calls)
        file.unlink()
    x, y = rows(sets.load_diabetes(return_X_y=True))
    regressor = ensemble.GradientBoostingRegressor(random_state=0).fit(x[:300], y[:300])
    file = folder / "boosted.onnx"
    file.write_bytes(to_onnx(regressor, x[:1]).SerializeToString())
    calls = [
        Call(file, {"X": part}, {"variable": regressor.predict(part)[:, None].astype(np.float32)})
        for part in (x[300:320], x[320:321])
    ]
    keep(folder, "sklearn-boosted", calls)
    file.unlink()


def answer_of(model: Any, rows: Any) -> Arrays:
    """A classifier's own answers, under skl2onnx's names and in its types."""
    chances = model.predict_proba(rows).astype(np.float32)
    return {"label": model.predict(rows).astype(np.int64), "probabilities": chances}


LIGHT = ("resnet50", "squeezenet", "shufflenet")


def onnx(folder: Path) -> None:
    """Networks of onnx's own model zoo whose weights are made up inside the graph."""
    data = Path(str(import_module("onnx").__file__)).parent / "backend" / "test" / "data" / "light"
    calls = listened()
    for name in LIGHT:
        file = data / f"light_{name}.onnx"
        session = import_module("onnxruntime").InferenceSession(str(file))
        (given,) = session.get_inputs()
        for x in pictures(224):
            if len(x) == 1:
                session.run(None, {given.name: x})
    by_file(folder, calls, {f"light_{name}": f"onnx-{name}" for name in LIGHT})


PACKAGES: dict[str, Callable[[Path], None]] = {
    make.__name__: make
    for make in (
        *(rapidocr, magika, ddddocr, nudenet, silero), *(timm, transformers, sklearn, onnx),
    )
}  # fmt: skip


if __name__ == "__main__":
    PACKAGES[sys.argv[1]](Path(sys.argv[2]))
