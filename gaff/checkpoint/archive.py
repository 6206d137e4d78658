# SPDX-License-Identifier: Apache-2.0
"""One torch ``.pt`` file, without torch: its records, its tensors by reference, and patches that keep its CRCs right.

A ``.pt`` file is an uncompressed zip: ``<prefix>/data.pkl`` and one record ``<prefix>/data/<key>`` per storage
(written by torch's ``PyTorchStreamWriter``).  Each record's CRC-32 stands in the central directory and, as torch
streams it out, in the data descriptor behind the record (APPNOTE 4.3.9); a patch keeps both right, because Python's
``zipfile`` checks what ``torch.load`` does not.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gaff.checkpoint.unpickle import ITEM_SIZE, ForbiddenGlobalError, TensorRef, unpickle
from gaff.errors import CheckpointError, Location, Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_BYTES = 8 << 20  # what is held in memory at a time

# What a damaged or hostile pickle makes the unpickler raise; none of it is our mistake.
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
           MemoryError, RecursionError)  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_CENTRAL_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_HAS_DESCRIPTOR = 0x08


@dataclass(frozen=True)
class Record:
    """One member of the zip.

    ``crc`` is the one of the central directory, ``local_crc`` the one that stands with the record; they differ only
    where a patch was cut short.  ``crc_fields`` are the file offsets of both, each four bytes, little-endian.
    """

    name: str
    data_offset: int
    size: int
    crc: int
    local_crc: int
    crc_fields: tuple[int, int]


class Archive:
    """A ``.pt`` file, opened for reading.

    Raises:
        CheckpointError: the file is truncated, damaged, compressed, big-endian, or not written by torch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = self._read_records()
        if self.records.get("data.pkl") is None:
            raise self._error("not-a-checkpoint", "is a zip file without data.pkl, so not one that torch wrote")
        order = self.records.get("byteorder")
        if order is not None and self.read(order, 0, order.size) != b"little":
            raise self._error("big-endian", "was written on a big-endian machine")

    def _error(self, problem_id: str, what: str, remedy: str = "use another checkpoint") -> CheckpointError:
        return CheckpointError(Problem(problem_id, what, remedy, Location(str(self.path))))

    def _read_records(self) -> dict[str, Record]:
        try:
            with zipfile.ZipFile(self.path) as archive, open(self.path, "rb") as file:
                return {r.name: r for r in _records(archive, file)}
        except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError) as error:
            raise self._error("truncated-file", f"is damaged or was cut off while being written ({error})") from None
        except OSError as error:
            raise self._error("unreadable-file", f"cannot be read ({error.strerror})", "check the path") from None

    @cached_property
    def root(self) -> Any:
        """The pickled object, with :class:`TensorRef` in place of tensors."""
        record = self.records["data.pkl"]
        try:
            return unpickle(self.read(record, 0, record.size))
        except ForbiddenGlobalError as error:
            raise self._error(
                "forbidden-global", f"names {error}, which no GPT-NeoX checkpoint needs; it was not loaded"
            ) from None
        except _DAMAGE as error:
            raise self._error("damaged-pickle", f"has a damaged data.pkl ({error})") from None

    def read(self, record: Record, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a record."""
        with open(self.path, "rb") as file:
            file.seek(record.data_offset + start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise self._error("truncated-file", f"ends inside record {record.name}")
        return data

    def chunks(self, record: Record, start: int, stop: int) -> Iterator[bytes]:
        """The same, in pieces of bounded size."""
        for position in range(start, stop, CHUNK_BYTES):
            yield self.read(record, position, min(position + CHUNK_BYTES, stop))

    def range_crc(self, record: Record, start: int, stop: int) -> int:
        """CRC-32 of bytes ``start`` to ``stop`` of a record as they are now."""
        crc = 0
        for chunk in self.chunks(record, start, stop):
            crc = zlib.crc32(chunk, crc)
        return crc

    def damaged_records(self) -> list[str]:
        """Names of the records whose bytes do not match both their CRCs.  Reads the whole file."""
        return [r.name for r in self.records.values() if {self.range_crc(r, 0, r.size)} != {r.crc, r.local_crc}]

    def record_of(self, tensor: TensorRef) -> Record:
        """The record that holds a tensor's storage, checked to be long enough and the tensor contiguous."""
        record = self.records.get(tensor.record)
        end = (tensor.offset + tensor.numel) * tensor.item_size
        if record is None or record.size < end:
            raise self._error("missing-record", f"lacks {tensor.record}, or holds less of it than its tensors need")
        if not tensor.is_contiguous:
            raise self._error("strided-tensor", f"holds {tensor.record} as a tensor that is not contiguous")
        return record

    def elements(self, record: Record, dtype: str, offset: int, count: int) -> NDArray[Any]:
        """``count`` elements from byte ``offset`` of a record, as numpy's (or ml_dtypes') dtype of that name."""
        import numpy as np

        data = self.read(record, offset, offset + count * ITEM_SIZE[dtype])
        return np.frombuffer(data, dtype=numpy_dtype(dtype))


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """numpy's dtype of a torch dtype name, little-endian; bfloat16 from ml_dtypes."""
    import numpy as np

    assert name in ITEM_SIZE
    if name == "bfloat16":
        import ml_dtypes

        dtype: np.dtype[np.generic] = np.dtype(ml_dtypes.bfloat16)
    else:
        dtype = np.dtype(name).newbyteorder("<")
    return dtype


def _records(archive: zipfile.ZipFile, file: BinaryIO) -> Iterator[Record]:
    position: int = archive.start_dir
    for info in archive.infolist():
        file.seek(position)
        entry = _CENTRAL_ENTRY.unpack(file.read(_CENTRAL_ENTRY.size))
        central_crc = position + 16
        position += _CENTRAL_ENTRY.size + entry[10] + entry[11] + entry[12]
        file.seek(info.header_offset)
        header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if entry[0] != b"PK\x01\x02" or header[0] != b"PK\x03\x04" or info.compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile(f"{info.filename} is not a plain stored record")
        data_offset = info.header_offset + _LOCAL_HEADER.size + header[9] + header[10]
        local_crc = _local_crc_offset(file, info, header[2], data_offset)
        file.seek(local_crc)
        yield Record(
            name=info.filename.partition("/")[2],
            data_offset=data_offset,
            size=info.file_size,
            crc=info.CRC,
            local_crc=int.from_bytes(file.read(4), "little"),
            crc_fields=(central_crc, local_crc),
        )


def _local_crc_offset(file: BinaryIO, info: zipfile.ZipInfo, flags: int, data_offset: int) -> int:
    """Where the CRC stands beside the record itself: in its data descriptor, or in its local header."""
    if not flags & _HAS_DESCRIPTOR:
        return info.header_offset + 14
    end = data_offset + info.file_size
    file.seek(end)
    return end + (4 if file.read(4) == b"PK\x07\x08" else 0)  # the signature is optional (APPNOTE 4.3.9.3)
