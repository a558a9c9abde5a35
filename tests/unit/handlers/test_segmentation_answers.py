"""What a segmentation archive answers, refuses and tells."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handlers.context import LocalContext
from handlers.errors import ArchiveError
from handlers.memory import LIMIT_VARIABLE
from repack import packing
from tests.support import volumes
from tests.support.segmenting import Array, Net, answer, handler, mask_of


def test_statistics() -> None:
    scan = volumes.scan()
    made = handler()
    status, found = answer(made, volumes.nifti(scan), "application/json")
    assert status == 200
    told = json.loads(found)
    counts = np.bincount(mask_of(made, volumes.nifti(scan)).ravel(), minlength=3)
    assert [label["voxels"] for label in told["labels"]] == counts.tolist()
    voxel_ml = abs(np.prod(np.linalg.norm(volumes.AFFINE[:3, :3], axis=0))) / 1000
    for label, count in zip(told["labels"], counts, strict=True):
        assert label["ml"] == pytest.approx(count * voxel_ml, rel=1e-4)
    assert set(told["milliseconds"]) == {"decode", "preprocess", "infer", "postprocess"}
    assert told["memory_bytes"]["volume"] == scan.size * 4
    assert told["memory_bytes"]["accumulators"] == 4 * 3 * 24 * 21 * 33
    assert told["runtime"]["precision"] == "f32"


def test_a_dicom_segmentation_needs_a_series() -> None:
    status, found = answer(handler(), volumes.nifti(volumes.scan()), "application/dicom")
    assert status == 422
    assert "a DICOM-SEG was asked for, and NIfTI came" in volumes.message(found)


def test_a_series_is_answered_with_a_segmentation_or_a_nifti() -> None:
    body = volumes.dicom_zip(volumes.series(np.round(volumes.scan() * 9).astype(np.int16)))
    assert answer(handler(), body)[1][128:132] == b"DICM"
    mask, image = volumes.load_mask(answer(handler(), body, "application/gzip")[1])
    assert mask.shape == (21, 40, 33)
    np.testing.assert_allclose(image.header.get_zooms(), (0.7, 0.8, 2.5), rtol=1e-6)


def test_the_answer_says_which_file_became_which_channel() -> None:
    channels = [{"name": name, "normalisation": {"kind": "none"}} for name in ("T1", "T2")]
    made, context = handler(channels=channels), LocalContext(Path())
    body = volumes.nifti(volumes.scan())
    made.handle([{"t2": body, "T1": body}, {"a": body, "b": body}], context)
    assert context.statuses == [200, 422]
    assert context.response_headers[0]["X-Channels"] == "T1=T1, T2=t2"


def test_a_header_names_a_few_of_what_was_left_out_and_json_all() -> None:
    files = volumes.series(np.round(volumes.scan((6, 8, 8)) * 9).astype(np.int16))
    body = io.BytesIO(volumes.dicom_zip(files))
    with zipfile.ZipFile(body, "a") as z:
        for i in range(20):
            z.writestr(f"{i:02}{'x' * 80}", b"hello")
    context = LocalContext(Path(), headers={"accept": "application/json"})
    (found,) = handler().handle([{"body": bytearray(body.getvalue())}], context)
    told = context.response_headers[0]["X-Left-Out"]
    assert told.endswith("..., 12 more")
    assert len(told) < 600
    assert len(json.loads(found)["volume"]["left_out"]) == 20


def test_a_network_that_overflows_is_no_empty_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Net, "scale", np.float32(np.nan))
    status, found = answer(handler(), volumes.nifti(volumes.scan()))
    assert status == 500
    assert "its precision overflows; repack it" in volumes.message(found)


def test_the_memory_of_a_batch_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    body = volumes.nifti(volumes.scan())
    made, context = handler(), LocalContext(Path())
    rows = [{"body": body}] * 3
    made.handle(rows, context)
    assert context.statuses == [413] * 3
    assert answer(made, body)[0] == 200


def test_one_bad_volume_in_a_batch_costs_the_others_nothing() -> None:
    bad = volumes.scan()
    bad[3, 4, 5] = np.inf
    good = volumes.nifti(volumes.scan())
    context = LocalContext(Path())
    found = handler().handle(
        [{"body": good}, {"body": volumes.nifti(bad)}, {"body": good}], context
    )
    assert context.statuses == [200, 422, 200]
    assert found[0] == found[2]


@pytest.mark.parametrize(
    "changed",
    [
        {"answer": {"kind": "other"}},
        {"channels": [{"name": "CT", "normalisation": {"kind": "ct"}}]},
        {"channels": [{"name": "CT", "normalisation": {"kind": "other"}}]},
        {"patch": [3]},
        {"crop": "other"},
        {"label_values": [0, 1]},
        {"answer": {"kind": "sigmoid_threshold", "written": [0, 0]}},
        {"resampling": {"logits": {"order": 3}}},
    ],
)
def test_settings_that_this_handler_does_not_know(changed: dict[str, Any]) -> None:
    with pytest.raises(ArchiveError, match="passport"):
        handler(**changed)


def test_progress_is_counted_while_a_volume_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.progress.METRIC_EVERY_S", 0.0)
    made, context = handler(), LocalContext(Path())
    seen: list[float] = []
    infer = made.runtime.infer

    def watched(inputs: dict[str, Array], every: bool = False) -> dict[str, Array]:
        seen.append(context.metrics.totals.get(("handler_windows", "Model"), 0.0))
        return infer(inputs, every)

    monkeypatch.setattr(made.runtime, "infer", watched)
    made.handle([{"body": volumes.nifti(volumes.scan())}], context)
    assert seen == list(range(18))
    assert context.metrics.totals["handler_windows", "Model"] == 18


def test_base64_in_json_is_the_same_volume() -> None:
    body = volumes.nifti(volumes.scan())
    text = json.dumps({"data": base64.b64encode(body).decode()}).encode()
    assert answer(handler(), text) == answer(handler(), body)


def test_a_worker_loads_only_what_its_volumes_need() -> None:
    """No format's library before a volume needs it; nibabel loads scipy and pydicom itself."""
    program = (
        "import sys; import handlers.segmentation; first = set(sys.modules);"
        "from handlers.volumes import reading;"
        "reading.read(sys.stdin.buffer.read(), lambda layout: None);"
        "names = ('torch', 'scipy', 'nibabel', 'pydicom', 'highdicom', 'cv2');"
        "print([n for n in names if n in first], [n for n in names if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=volumes.nifti(volumes.scan()),
        capture_output=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert done.stdout.decode().strip() == "[] ['scipy', 'nibabel', 'pydicom']"


def test_the_archive_answers_alone(tmp_path: Path) -> None:
    """As the packing step tries it: in an empty folder and a process that sees no kit."""
    packed = volumes.write_archive(tmp_path / "seg.mar", volumes.settings())
    sample = tmp_path / "sample.nii.gz"
    sample.write_bytes(volumes.nifti(volumes.scan()))
    packing._try_alone(packed, sample)
