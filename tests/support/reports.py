"""Facts that the report's tests share: of a segmentation, as no repack of it is quick enough."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from handlers.artefact import Artefact
from handlers.passport import TensorSpec
from handlers.runtimes.base import Runtime
from repack.gate import Reference
from repack.model import Arrays, Model
from repack.samples import Sample
from repack.sources import Source
from repack.tasks.segmentation import report as segmentation_report

SIDES = (20, 36, 28)
"""Of the volume, voxels along z, y and x."""

SPACING = [2.5, 0.8, 0.8]
"""mm along the same axes."""

HOSTILE = "</script><img src=x onerror=alert(1)>\"'&<b>\u202egnp.exe\x00"


def volume() -> tuple[Arrays, Arrays, Arrays]:
    """A scan of two balls in noise, the original's logits for it, and others near these."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SIDES), indexing="ij")
    first = ((z - 9) * 2.5) ** 2 + ((y - 14) * 0.8) ** 2 + ((x - 12) * 0.8) ** 2 < 64
    second = ((z - 13) * 2.5) ** 2 + ((y - 26) * 0.8) ** 2 + ((x - 19) * 0.8) ** 2 < 30
    scan = rng.normal(0, 0.1, SIDES) + first * 0.6 + second * 0.9
    logits = np.stack([0.5 - first - second, first - 0.5, second - 0.5]).astype(np.float32)
    moved = logits.copy()
    moved[1, :, 1:] = logits[1, :, :-1]
    given = {"INPUT__0": scan[None, None].astype(np.float32)}
    return given, {"OUTPUT__0": logits[None]}, {"OUTPUT__0": moved[None]}


class Moved(Runtime):
    """Answers what a conversion gone slightly wrong would."""

    name = "onnxruntime"

    def activate(self) -> None:
        pass

    def infer(self, inputs: Arrays, every: bool = False) -> Arrays:
        return volume()[2]


def segmentation() -> tuple[Model, Runtime, Reference]:
    """A segmentation's model, the converted model's stand-in and one sample."""
    given, want, _ = volume()
    labels = ("background", "trunk", "branch")
    path, task = Path("net.pt"), "segmentation"
    source = Source(nn.Identity(), "plain", "U-Net", labels, path, "0" * 64, task)
    inputs = (TensorSpec("INPUT__0", "float32", ("batch", 1, *SIDES), None, "NCDHW"),)
    outputs = (TensorSpec("OUTPUT__0", "float32", ("batch", 3, *SIDES), None, "NCDHW"),)
    settings = {"spacing": SPACING, "answer": {"kind": "argmax"}, "label_values": [0, 1, 2]}
    model = Model(source, inputs, outputs, None, lambda _: want, settings)
    runtime = Moved(Path(), Artefact("onnxruntime", (), "f32", {}, "tensors"), inputs)
    reference = Reference([given], [want], [Sample(Path("case_001.nii.gz"), given)])
    return model, runtime, reference


def segmentation_facts(base: dict[str, Any]) -> dict[str, Any]:
    """A real report's facts with a segmentation's gate, labels and pictures in their place."""
    model, runtime, reference = segmentation()
    facts = copy.deepcopy(base)
    task = {
        "labels": {
            "trunk": {"dice": 0.9412, "hd95_mm": 0.8, "voxels_original": 3102},
            "branch": {"dice": 1.0, "hd95_mm": 0.0, "voxels_original": 911},
        },
        "limits": {"dice": 0.999, "hd95_mm": 2.0},
    }
    facts["passport"]["task"] = "segmentation"
    facts["passport"]["labels"] = list(model.source.labels)
    facts["passport"]["settings"] = model.settings
    for result in facts["passport"]["gate"].values():
        result["task"] = task
    for candidate in facts["candidates"]:
        candidate["gate"]["task"] = task
    facts["headline"] = segmentation_report.headline(task)
    facts["limits"] = {
        p: {**limits, **segmentation_report.limits(p)} for p, limits in facts["limits"].items()
    }
    facts["pictures"] = segmentation_report.pictures(model, runtime, reference)
    return facts


def hostile(value: Any) -> Any:
    """The same facts with the user's strings replaced by one that attacks the page."""
    facts = copy.deepcopy(value)
    facts["command"] = facts["passport"]["source"]["file"] = HOSTILE
    facts["passport"]["name"] = facts["archive"] = HOSTILE
    facts["passport"]["source"]["network"] = HOSTILE * 50
    facts["passport"]["labels"] = [HOSTILE] * 300
    facts["passport"]["settings"] = {HOSTILE: {HOSTILE: HOSTILE}}
    facts["passport"]["versions"] = {HOSTILE: HOSTILE}
    facts["machine"]["processor"] = HOSTILE
    for spec in (*facts["passport"]["inputs"], *facts["passport"]["outputs"]):
        spec["name"] = spec["shape"][0] = HOSTILE
    for result in (*facts["passport"]["gate"].values(), *(c["gate"] for c in facts["candidates"])):
        result["outputs"] = {HOSTILE: next(iter(result["outputs"].values()))}
        result["task"] = {HOSTILE: HOSTILE, "labels": {HOSTILE: {"dice": 1.0, HOSTILE: HOSTILE}}}
    facts["headline"] = dict.fromkeys(("name", "value", "note"), HOSTILE)
    facts["not_checked"].append({"what": HOSTILE, "why": HOSTILE, "serious": True})
    for stage in facts["graph"].get("stages", []):
        stage["title"] = stage["shape"] = HOSTILE
        stage["operators"] = {HOSTILE: 2}
    for row in facts["operators"].get("rows", []):
        row["before"] = row["after"] = [HOSTILE]
    facts["pictures"]["legend"] = {HOSTILE: [{"label": HOSTILE, "colour": HOSTILE}] * 2}
    for sample in facts["pictures"].get("samples", []):
        sample["file"] = sample["note"] = HOSTILE
        for picture in sample["pictures"]:
            picture["label"] = picture["note"] = HOSTILE
    return facts


class GroupNormNet(nn.Module):
    """Convolution with batch norm, SiLU, group norm: ``[N, 3, 16, 16]`` to ``[N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.batch = nn.BatchNorm2d(8)
        self.act = nn.SiLU()
        self.group = nn.GroupNorm(4, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group(self.act(self.batch(self.conv(x))))
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result
