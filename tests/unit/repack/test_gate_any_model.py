"""The gate on models of any kind: the original as it is, and only what can be judged is judged.

Row 48: what is not finite, depends on its batch or was traced in training mode is named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from handlers.errors import KitError
from repack import backends, candidates, gate, pipeline
from repack.backends.conversion import Conversion
from repack.candidates import Candidate
from repack.gate import HOLLOW, Reference
from repack.model import Model
from repack.options import ClassifierOptions, Options, SourceOptions
from repack.samples import Sample
from repack.tolerances import TOLERANCES
from tests.support import odd_models as odd

Make = Callable[[Path], Path]

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def loaded(path: Path, **options: Any) -> Model:
    return pipeline.load(Options(SourceOptions(path), **options))


def tried(
    model: Model, folder: Path, backend: str, precision: str = "f32", samples: Any = ()
) -> Candidate:
    folder.mkdir(parents=True, exist_ok=True)
    candidate = Candidate(backend, precision)
    reference = Reference.make(model, list(samples))
    candidates.try_one(candidate, Conversion(model, folder), reference)
    return candidate


UNCOUNTED = [odd.lstm, odd.choice, odd.lookup, odd.nameless]


@pytest.mark.parametrize(
    ("make", "backend"),
    [
        *((make, "onnxruntime") for make in [*UNCOUNTED, odd.suppression, odd.learned, odd.fused]),
        # Of boxes turned inside out, which noise has, OpenVINO sees other overlaps.
        *((make, "openvino") for make in UNCOUNTED),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_cannot_be_counted_is_no_shortfall(tmp_path: Path, make: Make, backend: str) -> None:
    candidate = tried(loaded(make(tmp_path / "m.onnx")), tmp_path / "work", backend)
    assert candidate.verdict == "passed"


def test_a_node_without_a_name_is_counted(tmp_path: Path) -> None:
    candidate = tried(loaded(odd.nameless(tmp_path / "m.onnx")), tmp_path / "work", "onnxruntime")
    assert candidate.proven().gate.precision_found["flops"] == {"f32": 1.0}


def test_a_quantised_file_is_packed_as_it_is(tmp_path: Path) -> None:
    model = loaded(odd.quantised(tmp_path / "m.onnx"))
    assert "int8" in model.own_types
    candidate = tried(model, tmp_path / "work", "onnxruntime")
    assert candidate.verdict == "passed"
    assert candidate.proven().gate.precision_found["label"] == "int8"


def test_a_module_without_weights_is_packed(tmp_path: Path) -> None:
    path = odd.scripted(tmp_path / "m.pt", odd.Positive())
    model = loaded(path, input_shapes={"x": ("batch", 3)})
    assert tried(model, tmp_path / "work", "torchscript").verdict == "passed"


def test_made_up_inputs_are_as_long_as_a_sample(tmp_path: Path) -> None:
    model = loaded(odd.long_only(tmp_path / "m.onnx"))
    with pytest.raises(KitError, match="--samples"):
        Reference.make(model, [])
    sample = Sample(Path("s.npz"), {"x": np.ones((1, 1, 40), np.float32)})
    shapes = [given["x"].shape for given in Reference.make(model, [sample]).inputs]
    assert shapes == [(2, 1, 40), (1, 1, 40), (1, 1, 40), (1, 1, 40)]


def test_outputs_keep_their_names_where_a_compiler_folds_a_choice(tmp_path: Path) -> None:
    model = loaded(odd.settled(tmp_path / "m.onnx"))
    assert tried(model, tmp_path / "work", "openvino").verdict == "passed"


def test_float64_is_kept_or_refused(tmp_path: Path) -> None:
    model = loaded(odd.far_from_zero(tmp_path / "m.onnx"))
    with pytest.raises(KitError, match="OpenVINO computes the model's float64 in 32 bits"):
        candidates.asked(model, "openvino", "f32", False, Options().gpu)
    runtime = tried(model, tmp_path / "work", "onnxruntime").proven().runtime
    answer = runtime.infer({"x": np.array([[1700000123.5, 1700000001.25, 1700000064.0]])})
    assert answer["y"].tolist() == [[123.5, 1.25, 64.0]]


def test_a_module_in_float64_is_asked_in_float64(tmp_path: Path) -> None:
    path = odd.scripted(tmp_path / "m.pt", odd.Wide())
    model = loaded(path, input_shapes={"x": ("batch", 4)})
    assert model.inputs[0].dtype == "float64"
    given = np.random.default_rng(0).standard_normal((2, 4))
    want = torch.jit.load(str(path))(torch.from_numpy(given)).detach().numpy()
    assert model.ask({"x": given})["output"] == pytest.approx(want, rel=1e-12)
    candidate = tried(model, tmp_path / "work", "torchscript")
    assert candidate.verdict == "passed"
    assert candidate.proven().gate.precision_found["label"] == "f64"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (odd.fixed_inside, ["operator Reshape", "x is batchx6", "--input-shape"]),
        (odd.halved_and_doubled, ["node 'join'", "x is batchx3xheightxwidth", "--input-shape"]),
    ],
    ids=["Reshape", "Concat"],
)
def test_a_graph_that_does_not_run_on_its_own_shapes_is_one_line(
    tmp_path: Path, make: Make, words: list[str]
) -> None:
    model = loaded(make(tmp_path / "m.onnx"))
    odd_sides = make is odd.halved_and_doubled
    given = {"x": np.zeros((2, 3, 7, 7) if odd_sides else (1, 6), np.float32)}
    with pytest.raises(KitError) as refused:
        model.ask(given)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_free_sides_given_by_the_user_reach_every_backend(tmp_path: Path) -> None:
    model = loaded(
        odd.halved_and_doubled(tmp_path / "m.onnx"), input_shapes={"x": ("batch", 3, 8, 8)}
    )
    for backend in ("onnxruntime", "openvino"):
        assert tried(model, tmp_path / backend, backend).verdict == "passed"


def test_rows_of_a_best_n_list_are_matched(tmp_path: Path) -> None:
    model = loaded(odd.best_rows(tmp_path / "m.onnx"))
    assert model.sorts
    for backend in ("onnxruntime", "openvino"):
        assert tried(model, tmp_path / backend, backend).verdict == "passed"


def test_a_wrong_row_of_a_best_n_list_is_found(tmp_path: Path) -> None:
    model = loaded(odd.best_rows(tmp_path / "m.onnx"))
    reference = Reference.make(model, [])
    runtime = tried(model, tmp_path / "work", "onnxruntime").proven().runtime
    right = runtime.infer

    def wrong(inputs: Any, every: bool = False) -> Any:
        answer = {k: np.array(v) for k, v in right(inputs, every).items()}
        answer["y"][0, 0, 1] += 0.5
        return answer

    runtime.infer = wrong  # type: ignore[method-assign]
    result = gate.check(model, backends.named("onnxruntime"), runtime, "f32", reference)
    assert any("values outside" in failure for failure in result.failures)


def test_answers_of_zeros_prove_nothing(tmp_path: Path) -> None:
    model = loaded(odd.quiet(tmp_path / "m.onnx"))
    exact = tried(model, tmp_path / "f32", "onnxruntime")
    assert (exact.verdict, exact.passed, exact.usable) == (HOLLOW, False, True)
    reduced = tried(model, tmp_path / "bf16", "openvino", "bf16")
    if not reduced.error:  # a CPU without bfloat16 says so instead
        assert HOLLOW in reduced.verdict
        assert not reduced.usable
    loud = np.full((1, 3, 16, 16), 2, np.float32)
    sample = Sample(tmp_path / "loud.npy", {"x": loud})
    assert tried(model, tmp_path / "loud", "onnxruntime", samples=[sample]).verdict == "passed"


def test_tiny_answers_are_not_judged_by_their_own_size() -> None:
    a = np.full(1000, 1e-6, np.float32)
    figures, outside = gate._difference(a, a + 3e-7, TOLERANCES["f32"])
    assert outside == 0
    assert figures["relative_l2"] < 1e-3
    figures, _ = gate._difference(a + 1, a + 1.01, TOLERANCES["f32"])
    assert figures["relative_l2"] > 9e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (odd.not_finite, "weights 'w' hold NaN or infinity"),
        (odd.answers_infinity, "the model answers NaN or infinity in y"),
        (odd.answers_nan_somewhere, r"answers NaN in y, whatever comes \(33.33% of its values\)"),
    ],
    ids=["weights", "answers", "a part of the answers"],
)
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, make: Make, words: str) -> None:
    with pytest.raises(KitError, match=words):
        Reference.make(loaded(make(tmp_path / "m.onnx")), [])


def test_a_mask_of_infinities_is_no_broken_weight(tmp_path: Path) -> None:
    model = loaded(odd.masked_by_infinity(tmp_path / "m.onnx"))
    assert tried(model, tmp_path / "work", "onnxruntime").verdict == "passed"


def test_nodes_in_disorder_are_sorted(tmp_path: Path) -> None:
    model = loaded(odd.unsorted(tmp_path / "m.onnx"))
    for backend in ("onnxruntime", "openvino"):
        assert tried(model, tmp_path / backend, backend).verdict == "passed"
    assert model.source.path == tmp_path / "m.onnx"


def test_of_nodes_without_names_the_one_that_fails_is_found(tmp_path: Path) -> None:
    path = odd.fixed_inside(tmp_path / "m.onnx")
    model = onnx.load(path)
    before = onnx.helper.make_node("Reshape", ["x", "same"], ["first"])
    same = onnx.numpy_helper.from_array(np.array([0, -1], np.int64), "same")
    model.graph.initializer.append(same)
    model.graph.node[0].input[0] = "first"
    model.graph.node.insert(0, before)
    onnx.save(model, path)
    with pytest.raises(KitError, match=r"operator Reshape, node '-> y' \(fed by Reshape 'first'"):
        Reference.make(loaded(path), [])


def test_layers_are_counted_where_their_sizes_are_not_known_before(tmp_path: Path) -> None:
    model = loaded(odd.product_of_what_is_not_zero(tmp_path / "m.onnx"))
    candidate = tried(model, tmp_path / "work", "openvino")
    assert candidate.verdict == "passed"
    assert candidate.proven().gate.precision_found["layers"] == {"f32": 1.0}


def test_a_classifier_that_looks_at_its_batch_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    path = odd.traced(tmp_path / "m.pt", odd.Centred(), torch.zeros(2, 3, 16, 16))
    options = {"task": "classification", "classifier": ClassifierOptions(scores="logits")}
    model = loaded(path, input_shapes={"x": ("batch", 3, 16, 16)}, **options)
    with pytest.raises(KitError, match="depends on the others in its batch"):
        Reference.make(model, [])
    alone = loaded(path, input_shapes={"x": (1, 3, 16, 16)}, **options)
    Reference.make(alone, [])
    assert alone.inputs[0].shape[0] == 1


def test_a_trace_in_training_mode_is_named(tmp_path: Path) -> None:
    path = odd.traced(tmp_path / "m.pt", odd.Scores(), torch.zeros(2, 3, 16, 16), training=True)
    with pytest.raises(KitError, match=r"traced in training mode .*dropout"):
        loaded(path, input_shapes={"x": ("batch", 3, 16, 16)})


def test_a_device_in_the_code_is_named(tmp_path: Path) -> None:
    path = odd.scripted(tmp_path / "m.pt", odd.OnGpu())
    with pytest.raises(KitError, match="its code names the device cuda:0, which no other machine"):
        loaded(path, input_shapes={"x": ("batch", 3)})


def test_a_model_that_does_not_repeat_itself_is_named(tmp_path: Path) -> None:
    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    model = loaded(odd.scripted(tmp_path / "m.pt", Noisy()), input_shapes={"x": ("batch", 3)})
    with pytest.raises(KitError, match="does not repeat itself: output differs"):
        Reference.make(model, [])


def test_torchscript_of_any_signature(tmp_path: Path) -> None:
    named = loaded(
        odd.traced(tmp_path / "d.pt", odd.Positive(), torch.zeros(1, 3)),
        input_shapes={"x": ("batch", 3)},
    )
    assert [o.name for o in named.outputs] == ["output"]
    defaulted = loaded(
        odd.scripted(tmp_path / "s.pt", odd.Defaulted()), input_shapes={"x": ("batch", 3)}
    )
    assert tried(defaulted, tmp_path / "s", "torchscript").verdict == "passed"
    masked = loaded(
        odd.scripted(tmp_path / "b.pt", odd.Masked()),
        input_shapes={"ids": ("batch", "tokens"), "mask": ("batch", "tokens")},
        input_types={"ids": "int64", "mask": "int64"},
    )
    assert tried(masked, tmp_path / "b", "torchscript").verdict == "passed"


def test_outputs_of_a_dictionary_are_named_by_its_keys(tmp_path: Path) -> None:
    module = odd.Named()
    torch.manual_seed(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = torch.jit.trace(module.eval(), torch.zeros(1, 1, 8, 8), strict=False)
        torch.jit.save(file, str(tmp_path / "d.pt"))
    model = loaded(tmp_path / "d.pt", input_shapes={"x": ("batch", 1, 8, 8)})
    assert [o.name for o in model.outputs] == ["maps", "mean"]
    assert tried(model, tmp_path / "work", "torchscript").verdict == "passed"
