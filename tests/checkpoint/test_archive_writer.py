# SPDX-License-Identifier: Apache-2.0
"""Archives that GAFF writes, against those that torch writes."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint import archive_writer
from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive, write_records
from gaff.checkpoint.crc import combined_crc, zeros_crc

GIB = 1 << 30


def records(archive: Archive) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    for record in archive.records.values():
        yield record.name, record.size, archive.chunks(record, 0, record.size)


def test_every_real_file_is_written_byte_for_byte(unpacked_checkpoints: Path, tmp_path: Path) -> None:
    paths = sorted(unpacked_checkpoints.rglob("*.pt"))
    assert len(paths) > 90
    for path in paths:
        archive = Archive(path)
        crcs = write_archive(tmp_path / "copy.pt", archive.prefix, records(archive))
        assert (tmp_path / "copy.pt").read_bytes() == path.read_bytes(), path
        assert crcs == {record.name: record.crc for record in archive.records.values()}


def test_records_of_other_sizes_are_aligned_and_whole_to_every_reader(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    value = {"a": torch.arange(77), "b": torch.ones(3, dtype=torch.uint8), "none": torch.empty(0)}
    torch.save(value, tmp_path / "torch.pt")
    archive = Archive(tmp_path / "torch.pt")
    extra = ("extra/notes", 5, [b"he", b"", bytearray(b"l"), memoryview(b"lo")])
    write_archive(tmp_path / "ours.pt", "another-prefix", [*records(archive), extra])
    ours = Archive(tmp_path / "ours.pt")
    assert ours.prefix == "another-prefix"
    assert not ours.damaged_records()
    assert all(record.data_offset % 64 == 0 for record in ours.records.values())
    with zipfile.ZipFile(tmp_path / "ours.pt") as file:
        assert file.testzip() is None
        assert file.read("another-prefix/extra/notes") == b"hello"
    for mmap in (False, True):
        loaded = torch.load(tmp_path / "ours.pt", mmap=mmap)
        assert all(torch.equal(loaded[key], value[key]) for key in value)


def test_a_record_of_another_size_than_announced_is_a_mistake(tmp_path: Path) -> None:
    for size in (2, 4):
        with pytest.raises(AssertionError, match="3 bytes"):
            write_archive(tmp_path / "a.pt", "a", [("data.pkl", size, [b"123"])])


class _Holes(io.FileIO):
    """A file that leaves a hole where a large piece of zeros is written."""

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if len(view) < GIB:
            return super().write(data)
        self.seek(len(view), io.SEEK_CUR)
        return len(view)


def _crc(data: Any, value: int = 0) -> int:
    """The CRC of a large piece of zeros without reading it."""
    if len(memoryview(data)) < GIB:
        return zlib.crc32(data, value)
    return combined_crc(value, zeros_crc(len(data)), len(data))


def test_sizes_and_offsets_beyond_four_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    import mmap

    value = {"large": torch.empty(0, dtype=torch.uint8), "after": torch.arange(1000)}
    torch.save(value, tmp_path / "torch.pt")
    archive = Archive(tmp_path / "torch.pt")
    document = archive.document()
    large = document.tensor(document.at("large"))
    size = 5 * GIB + 3
    document.resize_tensor(document.at("large"), (size,))
    document.resize_storage(large.key, size)
    data = document.to_bytes()
    monkeypatch.setattr(archive_writer, "crc32", _crc)

    def grown() -> Iterator[tuple[str, int, Any]]:
        for name, old_size, pieces in records(archive):
            if name == "data.pkl":
                yield name, len(data), [data]
            elif name == f"data/{large.key}":
                with mmap.mmap(-1, GIB) as zeros:  # pages that nobody touches take no memory
                    yield name, size, [*[zeros] * 5, b"end"]
            else:
                yield name, old_size, pieces

    path = tmp_path / "ours.pt"
    with _Holes(path, "wb") as file:
        crcs = write_records(file, archive.prefix, grown())  # type: ignore[arg-type]
    assert path.stat().st_blocks * 512 < 1 << 20
    ours = Archive(path)
    assert ours.records[f"data/{large.key}"].size == size
    last = ours.records["version"]
    assert last.data_offset > 4 * GIB
    assert all(record.data_offset % 64 == 0 for record in ours.records.values())
    assert {name: record.crc for name, record in ours.records.items()} == crcs
    assert all(record.crc == record.local_crc for record in ours.records.values())
    with zipfile.ZipFile(path) as file:
        info = file.getinfo(f"{ours.prefix}/data/{large.key}")
        assert (info.file_size, info.CRC) == (size, crcs[f"data/{large.key}"])
        assert file.read(f"{ours.prefix}/version") == ours.read(last, 0, last.size)
    loaded = torch.load(path, mmap=True)
    assert torch.equal(loaded["after"], value["after"])
    assert loaded["large"].shape == (size,)
    assert bytes(loaded["large"][-4:].tolist()) == b"\x00end"
