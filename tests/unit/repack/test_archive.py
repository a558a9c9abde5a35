"""The .mar file: what is refused before anything of it is used, and how it is written.

Rows 20, 29, 32 and 33 in all their kinds; behind a server: tests/faults/test_faults_archives.py.
"""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import ArchiveError, KitError
from handlers.passport import FILE
from repack import archive
from tests.support.archives import build


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("good"))


def rewritten(
    source: Path,
    target: Path,
    keep: Callable[[str], bool] = lambda name: True,
    extra: list[tuple[zipfile.ZipInfo | str, bytes]] | None = None,
) -> Path:
    """A copy with members left out and others added, as an attacker's own tool would write it."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if keep(info.filename):
                new.writestr(info, old.read(info))
        for name, data in extra or ():
            new.writestr(name, data)
    return target


def refusal(path: Path) -> str:
    with pytest.raises(ArchiveError) as caught:
        archive.verify(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    return message


def test_a_whole_archive_passes(good: Path, tmp_path: Path) -> None:
    passport = archive.verify(good)
    assert (passport.name, FILE in passport.files) == ("m", False)
    assert {"portable/model.pt", "handlers/entry.py", archive.MANIFEST} <= set(passport.files)
    assert archive.unpack(good, tmp_path / "out") == passport
    passport.check_files(tmp_path / "out")
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert found == {*passport.files, FILE}


def test_the_manifest_is_what_torchserve_reads(good: Path) -> None:
    with zipfile.ZipFile(good) as z:
        manifest = json.loads(z.read(archive.MANIFEST))
    assert manifest["model"] == {
        "modelName": "m", "modelVersion": "1.0", "handler": "handlers.entry",
    }  # fmt: skip
    assert manifest["runtime"] == "python"


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_a_truncated_archive_is_refused(
    good: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    cut = tmp_path_factory.getbasetemp() / "cut.mar"
    cut.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
    assert "truncated or damaged" in refusal(cut)


@pytest.mark.parametrize(
    "member", ["portable/model.pt", "handlers/entry.py", archive.MANIFEST, FILE]
)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=25, deadline=None)
def test_a_flipped_bit_in_any_member_is_refused(
    good: Path, tmp_path_factory: pytest.TempPathFactory, member: str, share: float, bit: int
) -> None:
    data = bytearray(good.read_bytes())
    with zipfile.ZipFile(good) as z:
        info = z.getinfo(member)
    name, extra = struct.unpack("<HH", data[info.header_offset + 26 : info.header_offset + 30])
    start = info.header_offset + 30 + name + extra
    data[start + int(info.compress_size * share)] ^= 1 << bit
    flipped = tmp_path_factory.getbasetemp() / "flipped.mar"
    flipped.write_bytes(data)
    try:
        found = archive.verify(flipped)
    except ArchiveError as e:
        assert "\n" not in str(e)
    else:  # the mark of a compressed stream's last block, or spare bits after its end
        assert info.compress_type == zipfile.ZIP_DEFLATED
        assert found == archive.verify(good)


@given(share=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_any_changed_byte_is_refused_or_harmless(
    good: Path, tmp_path_factory: pytest.TempPathFactory, share: float, value: int
) -> None:
    """Bytes of the zip's own tables too: never anything but an ArchiveError or the same content."""
    data = bytearray(good.read_bytes())
    tables = data.index(b"PK\x01\x02") if share < 0.5 else 0
    data[tables + int((len(data) - tables) * (share * 2 % 1))] = value
    changed = tmp_path_factory.getbasetemp() / "changed.mar"
    changed.write_bytes(data)
    try:
        found = archive.verify(changed)
    except ArchiveError as e:
        assert "\n" not in str(e)
    else:
        assert found == archive.verify(good)


def test_right_zip_checksums_do_not_help_a_changed_file(good: Path, tmp_path: Path) -> None:
    changed = rewritten(
        good,
        tmp_path / "m.mar",
        lambda name: name != "portable/model.pt",
        [("portable/model.pt", b"other weights")],
    )
    assert "portable/model.pt has checksum" in refusal(changed)
    assert "its passport says" in refusal(changed)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "handlers/../../evil.py",
        "../m.mar-sibling/evil.py",
        "../stage-m.mar/evil.py",
        "/etc/cron.d/evil",
        "..\\evil.py",
        "C:\\evil.py",
        "C:evil.py",
    ],
)
def test_paths_that_lead_outside_are_refused(good: Path, tmp_path: Path, name: str) -> None:
    path = rewritten(good, tmp_path / "m.mar", extra=[(zipfile.ZipInfo(name), b"x")])
    assert "points outside the archive" in refusal(path)
    with pytest.raises(ArchiveError):
        archive.unpack(path, tmp_path / "out" / "m")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.mar"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused(good: Path, tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("portable/link")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    path = rewritten(good, tmp_path / "m.mar", extra=[(info, b"/etc/passwd")])
    assert "'portable/link' is a link or device" in refusal(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_member_that_is_there_twice_is_refused(good: Path, tmp_path: Path) -> None:
    path = rewritten(good, tmp_path / "m.mar", extra=[("handlers/entry.py", b"import os")])
    assert "'handlers/entry.py' is there twice" in refusal(path)


def test_an_extra_member_is_refused(good: Path, tmp_path: Path) -> None:
    path = rewritten(good, tmp_path / "m.mar", extra=[("handlers/sitecustomize.py", b"")])
    assert "'handlers/sitecustomize.py' is not named in its passport" in refusal(path)


def test_a_missing_member_is_refused(good: Path, tmp_path: Path) -> None:
    path = rewritten(good, tmp_path / "m.mar", lambda name: name != "handlers/boxes.py")
    assert "'handlers/boxes.py' is named in its passport but missing" in refusal(path)


def test_an_archive_cut_behind_a_zip_within_it_is_damaged(tmp_path: Path) -> None:
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as z:
        z.writestr("constants.pkl", b"0123456789")
    with zipfile.ZipFile(outer, "w") as z:
        z.writestr("handlers/entry.py", b"")
        z.writestr("torchscript-f32/model.pt", inner.getvalue())
        z.writestr(FILE, b"{}")
    whole = outer.getvalue()
    cut = tmp_path / "cut.mar"
    cut.write_bytes(whole[: whole.index(inner.getvalue()) + len(inner.getvalue()) + 20])
    assert "truncated or damaged" in refusal(cut)


def test_an_archive_without_a_passport_is_not_ours(good: Path, tmp_path: Path) -> None:
    path = rewritten(good, tmp_path / "m.mar", lambda name: name != FILE)
    assert "no passport.json: not made by this kit; repack" in refusal(path)


def test_a_bomb_is_refused_at_a_bound(good: Path, tmp_path: Path) -> None:
    bomb = zipfile.ZipInfo("portable/zeros.bin")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    path = rewritten(good, tmp_path / "m.mar", extra=[(bomb, bytes(64 << 20))])
    assert path.stat().st_size - good.stat().st_size < 100_000
    assert "unpacks to 67," in refusal(path)


def test_too_many_members_are_refused(good: Path, tmp_path: Path) -> None:
    extra: list[tuple[zipfile.ZipInfo | str, bytes]] = [(f"x/{i}", b"") for i in range(10_000)]
    assert "at most 10,000" in refusal(rewritten(good, tmp_path / "m.mar", extra=extra))


def test_an_encrypted_member_is_refused(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "m.mar").write_bytes(data)
    refusal(tmp_path / "m.mar")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.mar").mkdir()
    assert "a folder; expected a file" in refusal(tmp_path / "folder.mar")
    assert "cannot be read" in refusal(tmp_path / "none.mar")


def test_the_same_files_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    stage = tmp_path / "stage"
    (stage / "b").mkdir(parents=True)
    for name in ("b/model.pt", "b/a.json", "a.txt"):
        (stage / name).write_text(name * 500)
    archive.pack(stage, tmp_path / "one.mar")
    for path in stage.rglob("*"):
        os.utime(path, (1, 1))
    code = "import sys; from pathlib import Path; from repack.archive import pack; "
    code += "pack(Path(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(stage), str(tmp_path / "two.mar")]
    subprocess.run(
        command, check=True, env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    )
    assert (tmp_path / "one.mar").read_bytes() == (tmp_path / "two.mar").read_bytes()


@pytest.mark.parametrize("error", [KitError, OSError, KeyboardInterrupt, None])
def test_a_draft_replaces_only_when_it_is_committed(
    tmp_path: Path, error: type[BaseException] | None
) -> None:
    target = tmp_path / "m.mar"
    target.write_text("old")
    try:
        with archive.Draft(target) as draft:
            draft.path.write_text("new")
            assert target.read_text() == "old"
            if error is not None:
                raise error("x")
    except (KitError, OSError, KeyboardInterrupt):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["m.mar"]
    assert target.read_text() == "old"
    with archive.Draft(target) as draft:
        draft.path.write_text("new")
        draft.commit()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["m.mar"]
