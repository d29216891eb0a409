"""Outputs are looked at before any work is done for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kilocall.proto.errors import BadInput
from kilocall.runtime.files import check_output, check_output_folder, write_whole


def test_a_file_that_can_be_written_is_taken(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(b"old")
    for out in (tmp_path / "new", old):
        check_output(out, (None, tmp_path / "missing"))
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "new")


def test_an_output_that_cannot_be_is_refused_with_the_reason(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"clip")
    (tmp_path / "same.mp4").hardlink_to(clip)
    for out, said in (
        (tmp_path / "none" / "a", "none does not exist"),
        (tmp_path, "is a folder, wanted is a file"),
        (clip, "is a file that is read"),
        (tmp_path / "same.mp4", "is a file that is read"),
    ):
        with pytest.raises(BadInput, match=said):
            check_output(out, [clip])
    with pytest.raises(BadInput, match="is a file, wanted is a folder"):
        check_output_folder(clip)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
