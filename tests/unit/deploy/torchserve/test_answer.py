from __future__ import annotations

import json
import subprocess
from pathlib import Path

from deploy.torchserve.answer import SHOWN_ITEMS, curl_line, pretty, short
from deploy.torchserve.settings import make


def test_answer_is_the_same_json_a_line_per_detection() -> None:
    answer = {"model": {"name": "fd1"}, "detections": [{"box": [1, 2, 3, 4]}] * 3, "empty": []}
    shown = pretty(json.dumps(answer).encode())
    assert json.loads(shown) == answer
    assert len(shown.splitlines()) == 9


def test_long_answers_are_cut_and_others_named() -> None:
    shown = pretty(json.dumps({"detections": list(range(SHOWN_ITEMS + 5))}).encode())
    assert "... and 5 more" in shown
    assert pretty(b"\xff\xd8") == "2 bytes"
    assert pretty(b"[1]") == "[1]"


def test_curl_line_is_one_command_also_with_spaces(tmp_path: Path) -> None:
    picture = tmp_path / "my pictures" / "it's.jpg"
    run_dir = tmp_path / "a b"
    run_dir.mkdir()
    (run_dir / "key_file.json").write_text('{"inference": {"key": "s3cret"}}')
    settings = make({"host": "0.0.0.0", "run_dir": str(run_dir)})
    show = 'curl() { printf "%s\\n" "$@"; }; '
    done = subprocess.run(
        ["bash", "-c", show + curl_line(settings, picture)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "http://127.0.0.1:8080/predictions/fd1",
        "-T",
        short(picture),
        "-H",
        "Authorization: Bearer s3cret",
    ]
    assert "Authorization" not in curl_line(make({}), picture)
