"""The models of ``any_model.py``: what they are, whose they are, and what their packing needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
        flags: what its packing needs beside ``--weights``, ``--samples`` and ``--name``.
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
FRAME = ("--input-shape", "input=batchx576", "--input-shape", "state=2xbatchx128")

MODELS: Mapping[str, Entered] = {
    "rapidocr-detector": Entered("PP-OCRv4, where text stands", "rapidocr"),
    "rapidocr-recogniser": Entered("PP-OCRv4, what a line says", "rapidocr"),
    "rapidocr-classifier": Entered("PP-OCR, which way up a line is", "rapidocr"),
    "magika": Entered("kinds of files by their bytes", "magika"),
    "ddddocr-reader": Entered("short words (`common_old.onnx`)", "ddddocr"),
    "ddddocr-reader-beta": Entered("short words (`common.onnx`)", "ddddocr"),
    "ddddocr-detector": Entered("characters in a picture", "ddddocr"),
    "nudenet": Entered("YOLOv8 detector, raw maps", "nudenet"),
    "silero-vad": Entered("voice activity", "silero", flags=(*FRAME, *RATE)),
    "silero-16k-op15": Entered("voice activity, opset 15", "silero", flags=RATE),
    "silero-op18-ifless": Entered(
        "voice activity, without branches", "silero", flags=RATE
    ),
    "silero-half": Entered("voice activity, smaller", "silero"),
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
