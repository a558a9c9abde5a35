"""A stock archive, made by torch-model-archiver, beside one of the kit's."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import write_archive
from tests.support.checkout import UNSET, Checkout, checked_out, one_line, set_up

pytest.importorskip("model_archiver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not set_up(), reason=UNSET),
]

HANDLER = """
import torch
from ts.torch_handler.base_handler import BaseHandler


class Doubles(BaseHandler):
    def preprocess(self, rows):
        return torch.tensor([float(row.get("body") or row.get("data")) for row in rows])

    def postprocess(self, result):
        return [{"answer": value, "version": self.context.manifest["model"]["modelVersion"]}
                for value in result.tolist()]
"""


def stock(folder: Path, version: str, factor: int) -> Path:
    """Packs a TorchScript module with torch-model-archiver's own program."""
    import torch

    class Times(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * factor

    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is deprecated
        torch.jit.save(torch.jit.trace(Times(), torch.ones(1)), str(folder / "model.pt"))
    (folder / "handler.py").write_text(HANDLER)
    command = [
        *(sys.executable, "-c"),
        "from model_archiver.model_packaging import generate_model_archive as g; g()",
        *("--model-name", "stock", "--version", version, "--serialized-file", "model.pt"),
        *("--handler", "handler.py", "--export-path", "."),
    ]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return folder / "stock.mar"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with checked_out(tmp_path_factory.mktemp("guests")) as found:
        write_archive(found.store, "fd1", task="detection")
        stock(found.folder / "one", "1.0", 2).replace(found.store / "stock.mar")
        yield found


def test_without_the_flag_it_is_refused_by_name(checkout: Checkout) -> None:
    done = checkout.run()
    assert done.returncode == 0, done.stderr
    (line,) = (at for at in done.stdout.splitlines() if at.startswith("refused"))
    assert "stock.mar: no passport.json: not made by this kit" in line
    assert line.endswith("bash run.sh --guests")
    assert checkout.client.describe("stock") is None
    assert "with other archives" in one_line(checkout.run("--guests"))
    checkout.run("--stop")


def test_with_it_it_answers_and_is_said_not_to_be_proven(checkout: Checkout) -> None:
    done = checkout.run("--guests")
    assert done.returncode == 0, done.stderr
    assert "guest    stock.mar: a guest, which another program made: nothing of it" in done.stdout
    answer = checkout.client.predict("stock", b"21", 10)
    assert (answer.status, answer.json()) == (200, {"answer": 42.0, "version": "1.0"})
    assert "  a guest: not proven" in checkout.run("--status").stdout.splitlines()
    told = json.loads(checkout.run("--status", "--json").stdout)["models"]
    assert [told[name]["versions"]["1.0"]["guest"] for name in ("fd1", "stock")] == [False, True]


def test_a_guest_is_replaced_like_any_other(checkout: Checkout) -> None:
    new = stock(checkout.folder / "two", "2.0", 3)
    assert "give --sample FILE" in one_line(checkout.run("--update", str(new)))
    sample = checkout.folder / "sample"
    sample.write_text("7")
    done = checkout.run("--update", str(new), "--sample", str(sample))
    assert "stock 2.0 answers" in done.stdout, done.stdout + done.stderr
    sample.write_text("seven")
    new = stock(checkout.folder / "three", "3.0", 4)
    done = checkout.run("--update", str(new), "--sample", str(sample))
    assert "stock 2.0 goes on" in done.stdout, done.stdout + done.stderr
    answer = checkout.client.predict("stock", b"5", 10)
    assert answer.json() == {"answer": 15.0, "version": "2.0"}
