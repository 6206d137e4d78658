# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from gaff.supervisor.log_reader import LogReader


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_bytes(b"")
    return path


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def read_all(reader: LogReader) -> list[str]:
    lines = reader.read(last=True)
    while not reader.at_end:
        lines += reader.read(last=True)
    return lines


def test_lines_are_given_once_they_are_whole_and_the_last_one_at_the_end(log: Path) -> None:
    reader = LogReader(log)
    append(log, b"one\ntw")
    assert (reader.read(), reader.grew) == (["one"], True)
    assert (reader.read(), reader.grew) == ([], False)
    append(log, b"o\nand out")
    assert reader.read() == ["two"]
    assert read_all(reader) == ["and out"]


def test_what_an_earlier_launch_has_written_is_not_read_again(log: Path) -> None:
    append(log, b"old\n")
    reader = LogReader(log)
    append(log, b"new\n")
    assert reader.read() == ["new"]


def test_a_log_that_somebody_deletes_is_read_on(log: Path) -> None:
    reader = LogReader(log)
    with open(log, "ab", buffering=0) as writer:
        log.unlink()
        writer.write(b"still here\n")
        assert reader.read() == ["still here"]


def test_a_log_that_somebody_empties_is_read_from_its_new_beginning(log: Path) -> None:
    reader = LogReader(log)
    append(log, b"a long line of the time before\nand half of one")
    reader.read()
    log.write_bytes(b"")
    append(log, b"after\n")
    assert reader.read() == ["after"]


def test_no_line_is_longer_than_memory_allows_and_none_of_it_is_lost(log: Path) -> None:
    reader = LogReader(log)
    append(log, b"x" * (5 << 20) + b"\nend")
    tracemalloc.start()
    lengths: list[int] = []
    last: list[str] = []
    while not lengths or not reader.at_end:
        last = reader.read(last=True)
        lengths += map(len, last)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(lengths) == (5 << 20) + 3
    assert max(lengths) == 1 << 18
    assert last[-1] == "end"
    assert most < 5 << 20


def test_a_read_takes_no_more_than_a_megabyte_so_that_a_flood_can_be_stopped(log: Path) -> None:
    reader = LogReader(log)
    append(log, b"short\n" * 500_000)
    first = reader.read()
    assert len(first) < 200_000
    assert not reader.at_end
    assert len(first) + len(read_all(reader)) == 500_000


def test_bytes_that_are_no_text_are_replaced(log: Path) -> None:
    reader = LogReader(log)
    append(log, b"\xff\xfe\x00loss\n")
    assert reader.read() == ["\ufffd\ufffd\0loss"]
