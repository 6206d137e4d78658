# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gaff.supervisor.journal import JOURNAL_NAME, Journal, read_entries


def events(run_dir: Path) -> list[str]:
    return [entry.event for entry in read_entries(run_dir)]


def test_a_line_cut_off_anywhere_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    journal = Journal(path)
    journal.write("first", number=1)
    whole = path.read_bytes()
    journal.write("torn", text="ä, and a \n in it", list=[1, 2])
    line = path.read_bytes()[len(whole) : -1]
    assert b"\n" not in line
    for length in range(len(line)):
        path.write_bytes(whole + line[:length])
        assert events(tmp_path) == ["first"], length
        journal.write("next")
        journal.write("after")
        assert events(tmp_path) == ["first", "next", "after"], length
        assert path.read_bytes().startswith(whole + line[:length]), "history is not rewritten"
    path.write_bytes(whole + line)  # only its end is missing
    journal.write("next")
    assert events(tmp_path) == ["first", "torn", "next"]


def test_a_line_that_is_not_text_is_passed_over_and_closed(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(b'{"event": "\xc3')
    Journal(path).write("next", number=7)
    (entry,) = read_entries(tmp_path)
    assert (entry.event, entry.number("number")) == ("next", 7)
    assert entry.time is not None
    assert json.loads(path.read_bytes().splitlines()[-1])["event"] == "next"


def test_every_line_is_on_disk_when_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is flushed, and how much of it was in the file by then, is seen at the system's own call."""
    flushed: list[tuple[Path, bytes]] = []
    real = os.fsync

    def seen(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        flushed.append((path, path.read_bytes() if path.is_file() else b""))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    path = (tmp_path / JOURNAL_NAME).resolve()
    journal = Journal(path)
    for number in range(3):
        flushed.clear()
        journal.write("announced", number=number)
        content = path.read_bytes()
        assert json.loads(content.splitlines()[-1])["number"] == number
        assert (path, content) in flushed
        if number == 0:
            assert path.parent in [place for place, _ in flushed], "a new file's name must be on disk as well"
