# SPDX-License-Identifier: Apache-2.0
"""One torch ``.pt`` file, without torch: its records, its tensors by reference, and where its CRCs stand.

A ``.pt`` file is an uncompressed zip: ``<prefix>/data.pkl`` and one record ``<prefix>/data/<key>`` per storage
(written by torch's ``PyTorchStreamWriter``).  Each record's CRC-32 stands in the central directory and, as torch
streams it out, in the data descriptor behind the record (APPNOTE 4.3.9); a patch must keep both right, because
Python's ``zipfile`` checks what ``torch.load`` does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.checkpoint.crc import crc32
from gaff.checkpoint.pickle_document import PickleDocument
from gaff.checkpoint.pickle_parser import DamagedPickleError, ForbiddenGlobalError
from gaff.checkpoint.unpickle import ITEM_SIZE, TensorRef, unpickle
from gaff.checkpoint.zip_directory import DamagedZipError, Record, opened, read_records
from gaff.errors import CheckpointError, Location, Problem
from gaff.files import TROUBLE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Archive", "Record", "numpy_dtype"]

CHUNK_BYTES = 8 << 20  # what is held in memory at a time
MAX_PICKLE_BYTES = 64 << 20  # GPT-NeoX's are a few kilobytes to a few megabytes


class Archive:
    """A ``.pt`` file, opened for reading.

    Attributes:
        path: the file.
        prefix: the directory in the zip in which all records stand.
        records: by their names without it, in the order of the central directory.

    Raises:
        CheckpointError: the file is truncated, damaged, compressed, big-endian, or not written by torch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prefix, self.records = self._read_records()
        pickled = self.records.get("data.pkl")
        if pickled is None:
            raise self._error("not-a-checkpoint", "is a zip file without data.pkl, so not one that torch wrote")
        if pickled.size > MAX_PICKLE_BYTES:
            what = f"has a data.pkl of {pickled.size} bytes, more than a checkpoint can need"
            raise self._error("damaged-pickle", what)
        order = self.records.get("byteorder")
        if order is not None and self.read(order, 0, min(order.size, 16)) != b"little":
            raise self._error("big-endian", "was written on a big-endian machine")

    def _error(self, problem_id: str, what: str, remedy: str = "use another checkpoint") -> CheckpointError:
        return CheckpointError(Problem(problem_id, what, remedy, Location(str(self.path))))

    def _unreadable(self, error: OSError | ValueError) -> CheckpointError:
        if isinstance(error, OSError) and error.errno in TROUBLE:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return self._error("unreadable-file", f"cannot be read ({reason})", "check the path")

    def _read_records(self) -> tuple[str, dict[str, Record]]:
        try:
            with opened(self.path) as descriptor:
                return read_records(descriptor)
        except DamagedZipError as error:
            raise self._error("truncated-file", f"is damaged or was cut off while being written ({error})") from None
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL
            raise self._unreadable(error) from None

    @cached_property
    def root(self) -> Any:
        """The pickled object, with :class:`TensorRef` in place of tensors.

        Raises:
            CheckpointError: it is damaged, names what no GPT-NeoX checkpoint needs, or is unreasonably large.
        """
        try:
            return unpickle(self._pickle())
        except (ForbiddenGlobalError, DamagedPickleError) as error:
            raise self._refused(error) from None

    def document(self) -> PickleDocument:
        """The pickle, to be edited.

        Raises:
            CheckpointError: as :attr:`root`.
        """
        try:
            return PickleDocument(self._pickle())
        except (ForbiddenGlobalError, DamagedPickleError) as error:
            raise self._refused(error) from None

    def _pickle(self) -> bytes:
        record = self.records["data.pkl"]
        return self.read(record, 0, record.size)

    def _refused(self, error: ForbiddenGlobalError | DamagedPickleError) -> CheckpointError:
        if isinstance(error, DamagedPickleError):
            return self._error("damaged-pickle", f"has a damaged data.pkl ({error})")
        what = f"names {ascii(str(error))[1:-1][:200]}, which no GPT-NeoX checkpoint needs; it was not loaded"
        return self._error("forbidden-global", what)

    def read(self, record: Record, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a record.

        Raises:
            CheckpointError: the record is shorter, the file has become so, or it cannot be read any more.
        """
        if not 0 <= start <= stop <= record.size:
            raise self._error("truncated-file", f"has no bytes {start} to {stop} in record {record.name}")
        pieces = []
        try:
            with opened(self.path) as descriptor:
                while start < stop:  # one system call gives at most 2 GiB
                    piece = os.pread(descriptor, stop - start, record.data_offset + start)
                    if not piece:
                        raise self._error("truncated-file", f"ends inside record {record.name}")
                    pieces.append(piece)
                    start += len(piece)
        except OSError as error:
            raise self._unreadable(error) from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def chunks(self, record: Record, start: int, stop: int) -> Iterator[bytes]:
        """The same, in pieces of bounded size."""
        for position in range(start, stop, CHUNK_BYTES):
            yield self.read(record, position, min(position + CHUNK_BYTES, stop))

    def range_crc(self, record: Record, start: int, stop: int) -> int:
        """CRC-32 of bytes ``start`` to ``stop`` of a record as they are now."""
        crc = 0
        for chunk in self.chunks(record, start, stop):
            crc = crc32(chunk, crc)
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
