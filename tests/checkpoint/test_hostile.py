# SPDX-License-Identifier: Apache-2.0
"""Files made to do harm: nothing executes, hangs, fills memory or is written, and each gets one clear sentence."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive, write_records
from gaff.checkpoint.pickle_parser import DamagedPickleError, ForbiddenGlobalError
from gaff.checkpoint.unpickle import FragmentAddress, unpickle
from gaff.errors import CheckpointError
from tests.checkpoint.contained import outcomes

REFUSED = {"forbidden-global", "damaged-pickle", "missing-record"}


class Calls:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> object:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, open, getattr, os.execv, pickle.loads])
def test_a_pickle_that_calls_something_is_refused_by_name(function: object, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"module": Calls(function, f"touch {tmp_path}/ran")}, protocol=protocol)
    with pytest.raises(ForbiddenGlobalError, match=function.__name__):  # type: ignore[attr-defined]
        unpickle(data)
    assert not os.listdir(tmp_path)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(module: str, name: str, arguments: bytes) -> bytes:
    """``arguments`` is the pickle of a tuple."""
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
SYSTEM = call("os", "system", text("touch ran") + b"\x85")
FRAGMENT = b"cdeepspeed.utils.tensor_fragment\nfragment_address\n)\x81"
ARRAY = call("numpy.core.multiarray", "_reconstruct", b"cnumpy\nndarray\nK\x00\x85C\x01b\x87")
PROD = b"\x8a\xff" + b"\x7f" * 255


def tensor(
    storage: bytes = STORAGE,
    offset: bytes = b"K\x00",
    shape: bytes = b"K\x04\x85",
    stride: bytes = b"K\x01\x85",
    hooks: bytes = b")",
    more: bytes = b"",
) -> bytes:
    arguments = b"(" + storage + offset + shape + stride + b"\x89" + hooks + more + b"t"
    return call("torch._utils", "_rebuild_tensor_v2", arguments)


def doubling(start: bytes, join: bytes, levels: int) -> bytes:
    """Each level holds the one before twice, through the memo."""
    return start + b"".join(b"q%ch%c" % (level, level) + join for level in range(levels))


HOSTILE_PICKLES = {
    "os.system": SYSTEM,
    "posix.system": call("posix", "system", text("touch ran") + b"\x85"),
    "getattr": call("builtins", "getattr", b"ctorch\nTensor\n" + text("__class__") + b"\x86"),
    "eval in protocol 0's module": call("__builtin__", "eval", text("1") + b"\x85"),
    "runpy": call("runpy", "run_path", text("x") + b"\x85"),
    "a dotted name": b"\x8c\x0bcollections\x8c\x1aOrderedDict.__init__.__glo\x93",
    "STACK_GLOBAL": text("os") + text("system") + b"\x93" + text("touch ran") + b"\x85R",
    "STACK_GLOBAL of numbers": b"K\x01K\x02\x93",
    "a name of allowed pieces": call("torch", "storage._load_from_bytes", b"C\x01x\x85"),
    "a name of many lines": text("os\n\x1b[31m" * 1000) + text("𝄞" * 1000) + b"\x93",
    "a name that does not end": b"c" + b"x" * 5000,
    "a name with a NUL": call("os\0", "system", b")"),
    "in a tensor's shape": tensor(shape=SYSTEM),
    "in a tensor's hooks": tensor(hooks=SYSTEM),
    "in a tensor's metadata": tensor(more=SYSTEM),
    "in a persistent id": b"(" + text("storage") + SYSTEM + text("0") + text("cpu") + b"K\x04tQ",
    "as a dict's key": b"}" + SYSTEM + b"K\x01s",
    "in a state": FRAGMENT + SYSTEM + b"b",
    "in an array's state": ARRAY + SYSTEM + b"\x85b",
    "INST": b"(" + text("touch ran") + b"ios\nsystem\n",
    "OBJ": b"(cos\nsystem\n" + text("touch ran") + b"o",
    "EXT1": b"\x82\x01",
    "EXT4": b"\x84\x01\x00\x00\x00",
    "NEWOBJ_EX": b"cos\nsystem\n)}\x92",
    "call of a tensor": tensor() + b")R",
    "call of a text": text("os.system") + b")R",
    "call of a dtype": call("torch", "float32", b")"),
    "call with no tuple": b"ctorch\nSize\n]R",
    "BUILD on a class": b"cdeepspeed.utils.tensor_fragment\nfragment_address\nN}" + text("x") + b"K\x01s\x86b",
    "BUILD on a function": b"ctorch\nSize\nN}" + text("__code__") + b"K\x01s\x86b",
    "BUILD on a dict": b"}" + b"}" + text("get") + b"K\x01sb",
    "BUILD on a tensor": tensor() + b"}" + text("shape") + b")sb",
    "BUILD twice": FRAGMENT + b"}b}b",
    "a fragment's slots": FRAGMENT + b"N}" + text("numel") + b"K\x01s\x86b",
    "a fragment of texts": FRAGMENT + b"}(" + text("numel") + text("1") + text("start") + text("1") + b"ub",
    "a fragment before the start": FRAGMENT + b"}(" + text("numel") + b"K\x01" + text("start") + b"J\xff\xff\xff\xffub",
    "entries for a fragment": FRAGMENT + b"K\x01K\x01s",
    "items for a dict": b"}K\x01a",
    "items for a tuple": b")K\x01a",
    "Size of a text": call("torch", "Size", text("x" * 100000) + b"\x85"),
    "Size of Size": call("torch", "Size", b"ctorch\nSize\n\x85"),
    "Size of much": call("torch", "Size", b"]" + b"(" + b"K\x01" * 100000 + b"e" + b"\x85"),
    "OrderedDict of itself": call("collections", "OrderedDict", b"ccollections\nOrderedDict\n\x85"),
    "set of lists": call("builtins", "set", b"]]a\x85"),
    "set of a text": call("builtins", "set", text("abc") + b"\x85"),
    "set of tuples": call("builtins", "set", b"]" + doubling(b")", b"\x86", 60) + b"a\x85"),
    "encode to something else": call("_codecs", "encode", text("x") + text("zlib_codec") + b"\x86"),
    "encode with errors=": call("_codecs", "encode", text("x") + text("latin1") + text("strict") + b"\x87"),
    "an enumeration of text": call("deepspeed.runtime.zero.config", "ZeroStageEnum", text("9" * 100000) + b"\x85"),
    "a tensor without a storage": tensor(storage=b"K\x01"),
    "a tensor of huge sizes": tensor(shape=PROD + PROD + b"\x86", stride=b"K\x01K\x01\x86"),
    "a tensor of many sizes": tensor(shape=b"(" + PROD * 5000 + b"t", stride=b"(" + b"K\x01" * 5000 + b"t"),
    "a tensor before the start": tensor(offset=b"J\xff\xff\xff\xff"),
    "a shape of floats": tensor(shape=b"G\x7f\xf0\x00\x00\x00\x00\x00\x00\x85"),
    "a shape of bools": tensor(shape=b"\x88\x85"),
    "a shape without stride": tensor(stride=b")"),
    "an unknown persistent id": b"(" + text("file") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ",
    "a persistent id of a text": text("0") + b"Q",
    "a short persistent id": text("storage") + b"\x85Q",
    "a storage key of bytes": b"(" + text("storage") + b"ctorch\nFloatStorage\nC\x010" + text("cpu") + b"K\x04tQ",
    "a storage key of many lines": tensor(
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("../0\n" * 1000) + text("cpu") + b"K\x04tQ"
    ),
    "a storage that is not there": tensor(STORAGE.replace(text("0"), text("1"))),
    "a tensor beyond its storage": tensor(offset=b"K\x01"),
    "PERSID": b"Pfile\n",
    "a tensor rebuilt by another function": call(
        "torch._tensor", "_rebuild_from_type_v2", b"(ctorch\nSize\nctorch\nTensor\n))t"
    ),
    "tuples doubled": doubling(b")", b"\x86", 60),
    "lists doubled": doubling(b"]", b"\x86", 60),
    "a long text doubled": doubling(text("x" * 1000), b"\x86", 30),
    "a doubled key": b"}" + doubling(b")", b"\x86", 60) + b"K\x01s",
    "a list in itself": b"]q\x00h\x00a",
    "a dict in itself": b"}q\x00K\x01h\x00s",
    "a tuple through a list in itself": b"]q\x00h\x00\x85a",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep tuples": b")" + b"\x85" * 100_000,
    "deep calls": b"ctorch\nSize\n" * 1000 + b")" + b"R\x85" * 999 + b"R",
    "marks": b"(" * 200_000,
    "opcodes": b"N" * 1_100_000 + b"0" * 1_099_999,
    "INT of many digits": b"I" + b"9" * 1_000_000 + b"\n",
    "LONG of many digits": b"L" + b"9" * 1_000_000 + b"L\n",
    "FLOAT of many digits": b"F" + b"9" * 1_000_000 + b"\n",
    "STRING": b"S'x'\n",
    "LONG4 of 2 GB": b"\x8b\xff\xff\xff\x7f",
    "a negative LONG4": b"\x8b\xff\xff\xff\xff",
    "LONG4": b"\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20),
    "BINUNICODE of 4 GB": b"X\xff\xff\xff\xffx",
    "BINUNICODE8 beyond memory": b"\x8d" + b"\xff" * 8,
    "BINBYTES8 beyond memory": b"\x8e" + b"\xff" * 7 + b"\x7f",
    "BYTEARRAY8": b"\x96" + b"\xff" * 7 + b"\x7f",
    "FRAME beyond memory": b"\x95" + b"\xff" * 8 + b"N",
    "text that is no UTF-8": b"X\x02\x00\x00\x00\xff\xfe",
    "a memo that was not set": b"h\x07",
    "LONG_BINPUT of nothing": b"r\xff\xff\xff\xff",
    "keys with one hash": b"}(" + b"".join(b"\x8a\x09" + struct.pack("<Q", (k << 61) - k) + b"\0N"
                                          for k in range(2, 8)) + b"u",
    "an odd number of entries": b"}(K\x01u",
    "a key without a value": b"}K\x01s",
    "two values": b"NN",
    "nothing": b"",
    "an open mark": b"N(",
    "protocol 5": b"\x80\x05N",
    "protocol 255": b"\x80\xff",
    "NEXT_BUFFER": b"\x97",
    "DUP": b"]2a",
    "an unknown opcode": b"\xff",
}  # fmt: skip


def test_every_hostile_pickle_is_refused(tmp_path: Path) -> None:
    files = {}
    for number, (name, body) in enumerate(HOSTILE_PICKLES.items()):
        data = b"\x80\x02" + body + b"."
        path = tmp_path / f"{number}.pt"
        write_archive(path, "hostile", [("data.pkl", len(data), [data]), ("data/0", 16, [bytes(16)])])
        files[path] = name
    before = {path: path.read_bytes() for path in files}
    found = {files[path]: outcome for path, outcome in outcomes(files).items()}
    assert {name: outcome for name, outcome in found.items() if outcome not in REFUSED} == {}
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_pieces_of_which_hostile_pickles_are_made_are_harmless_by_themselves() -> None:
    # otherwise the test above would pass for a wrong reason
    assert unpickle(b"\x80\x02" + tensor() + b".").shape == (4,)
    good = b"}(" + text("numel") + b"K\x03" + text("start") + b"K\x02u"
    assert unpickle(b"\x80\x02" + FRAGMENT + good + b"b.") == FragmentAddress(3, 2)
    unpickle(b"\x80\x02" + ARRAY + b"K\x01\x85b.")
    assert unpickle(b"\x80\x02" + call("torch", "Size", b"K\x04\x85\x85") + b".") == (4,)
    assert unpickle(b"\x80\x02" + doubling(b")", b"\x86", 3) + b".") == ((((), ()), ((), ())), (((), ()), ((), ())))


def test_stand_ins_are_as_they_were_after_an_attack() -> None:
    for attack in ("BUILD on a class", "BUILD on a function"):
        with pytest.raises(DamagedPickleError):
            unpickle(b"\x80\x02" + HOSTILE_PICKLES[attack] + b".")
    assert not hasattr(FragmentAddress, "x")
    test_the_pieces_of_which_hostile_pickles_are_made_are_harmless_by_themselves()


def test_the_copyreg_table_of_extensions_is_not_asked() -> None:
    import copyreg

    copyreg.add_extension("os", "system", 200)
    try:
        with pytest.raises(DamagedPickleError, match="opcode"):
            unpickle(pickle.dumps(Calls(os.system, "true"), protocol=2).replace(b"cposix\nsystem\n", b"\x82\xc8"))
    finally:
        copyreg.remove_extension("os", "system", 200)


def stored_zip(records: list[tuple[str, bytes]], comment: bytes = b"", **attributes: int) -> bytes:
    """A zip by Python's zipfile."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", attributes.pop("compression", zipfile.ZIP_STORED)) as file:
        for name, data in records:
            file.writestr(name, data)
        file.comment = comment
    return stream.getvalue()


GOOD = [("a/data.pkl", b"\x80\x02}."), ("a/data/0", b"1234"), ("a/version", b"3\n")]


def patched(find: bytes, at: int, new: bytes, which: int = 0, data: bytes | None = None) -> bytes:
    """A good zip with other bytes at some distance from the ``which``-th occurrence of a signature."""
    content = bytearray(data if data is not None else stored_zip(GOOD))
    place = -1
    for _ in range(which + 1):
        place = content.index(find, place + 1)
    content[place + at : place + at + len(new)] = new
    return bytes(content)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
BAD_NAMES = ["../data/0", "/data/0", "a/../x", "a/./x", "a//x", "b/data/0", "a/", "a", "a/x\0y", "a/data.pkl"]


def torch_like() -> bytes:
    """The same by GAFF's own writer, with zip64 end record and data descriptors."""
    stream = io.BytesIO()
    write_records(stream, "a", [(name[2:], len(data), [data]) for name, data in GOOD])
    return stream.getvalue()


def hostile_zips() -> dict[str, bytes]:
    good, ours = stored_zip(GOOD), torch_like()
    zip64_end = b"PK\x06\x06"
    huge = b"\xff" * 7 + b"\x7f"
    return {
        "empty": b"",
        "one byte": b"P",
        "not a zip": b"\x80\x02}." * 100,
        "no records": stored_zip([]),
        "no data.pkl": stored_zip(GOOD[1:]),
        "compressed": stored_zip([(name, bytes(1 << 20)) for name, _ in GOOD], compression=zipfile.ZIP_DEFLATED),
        "bzip2": stored_zip(GOOD, compression=zipfile.ZIP_BZIP2),
        "something behind it": good + b"x",
        "zeros behind it": good + bytes(4096),
        "a comment": stored_zip(GOOD, comment=b"hello"),
        "a comment with an end record": stored_zip(GOOD, comment=good[good.index(END) :]),
        "two zips": good + good,
        "something before it": b"x" * 50 + good,
        "cut in the middle": ours[: len(ours) // 2],
        "cut by one byte": ours[:-1],
        "without its beginning": ours[64:],
        "encrypted": patched(CENTRAL, 8, b"\x01\x00"),
        "encrypted as its header says": patched(LOCAL, 6, b"\x01\x00"),
        "masked headers": patched(CENTRAL, 8, b"\x00\x20"),
        "compressed as its header says": patched(LOCAL, 8, b"\x08\x00"),
        "another compression": patched(CENTRAL, 10, b"\x63\x00"),
        "on another disk": patched(CENTRAL, 34, b"\x01\x00"),
        "of several disks": patched(END, 4, b"\x01\x00"),
        "of several disks, zip64": patched(zip64_end, 16, b"\x01", data=ours),
        "fewer entries than there are": patched(END, 8, b"\x02\x00\x02\x00"),
        "more entries than there are": patched(END, 8, b"\x09\x00\x09\x00"),
        "millions of entries": patched(zip64_end, 24, struct.pack("<QQ", 1 << 40, 1 << 40), data=ours),
        "a directory of 2^63 bytes": patched(zip64_end, 40, huge, data=ours),
        "a directory at 2^63": patched(zip64_end, 48, huge, data=ours),
        "a directory before the start": patched(zip64_end, 48, b"\xff" * 8, data=ours),
        "a locator to elsewhere": patched(b"PK\x06\x07", 8, b"\x00", data=ours),
        "a long zip64 end record": patched(zip64_end, 4, b"\x2d", data=ours),
        "a pickle larger than the file": patched(CENTRAL, 20, struct.pack("<II", 1 << 30, 1 << 30)),
        "a pickle of 4 GB without zip64": patched(CENTRAL, 20, b"\xff" * 8),
        "two sizes": patched(CENTRAL, 20, struct.pack("<II", 4, 3)),
        "a record over its neighbour": patched(CENTRAL, 20, struct.pack("<II", 60, 60)),
        "a record at another's place": patched(CENTRAL, 42, b"\x00" * 4, which=1),
        "a record beyond the file": patched(CENTRAL, 42, struct.pack("<I", 1 << 30), which=1),
        "a record in the directory": patched(CENTRAL, 42, struct.pack("<I", good.index(CENTRAL)), which=1),
        "a long name": patched(CENTRAL, 28, b"\xff\xff"),
        "a long extra field": patched(CENTRAL, 30, b"\xff\xff"),
        "a long comment of a record": patched(CENTRAL, 32, b"\xff\xff"),
        "a long extra field in the header": patched(LOCAL, 28, b"\xff\xff"),
        "an extra field over its neighbour": patched(LOCAL, 28, b"\x28\x00"),
        "another name in the header": patched(LOCAL, 30, b"b"),
        "a descriptor in another record": patched(CENTRAL, 8, b"\x08\x00", data=patched(LOCAL, 6, b"\x08\x00")),
        "no header": patched(LOCAL, 0, b"PKxx"),
        "no directory": patched(CENTRAL, 0, b"PKxx"),
        "a name that is no UTF-8": good.replace(b"a/version", b"a/versi\xff\xff"),
        "big-endian": stored_zip([*GOOD, ("a/byteorder", b"big")]),
        "a byte order of a megabyte": stored_zip([*GOOD, ("a/byteorder", bytes(1 << 20))]),
        **{f"the name {name!r}": good.replace(b"a/version", name.encode().ljust(9, b"/")) for name in BAD_NAMES[:3]},
    }


ZIP_PROBLEMS = {"truncated-file", "not-a-checkpoint", "big-endian", "unreadable-file", "damaged-pickle"}


def test_every_hostile_zip_is_refused(tmp_path: Path) -> None:
    files = {}
    for number, (name, data) in enumerate(hostile_zips().items()):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(data)
        files[path] = name
    found = {files[path]: outcome for path, outcome in outcomes(files).items()}
    assert {name: outcome for name, outcome in found.items() if outcome not in ZIP_PROBLEMS} == {}


def test_the_zips_of_which_hostile_ones_are_made_are_good(tmp_path: Path) -> None:
    for data in (stored_zip(GOOD), torch_like()):
        (tmp_path / "good.pt").write_bytes(data)
        assert Archive(tmp_path / "good.pt").root == {}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_record_may_not_have_a_name_that_torch_does_not_give(name: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x")
    info.filename = name
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02}.")
        file.writestr(info, b"1")
    with pytest.raises(CheckpointError, match="name"):
        Archive(tmp_path / "a.pt")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def looped(path: Path) -> None:
    path.symlink_to(path.name)


def linked_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def sparse_directory(path: Path) -> None:
    """A directory of half a terabyte of zeros, rightly announced."""
    size = 1 << 39
    with open(path, "wb") as file:
        file.seek(size)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 0x31E, 0x2D, 0, 0, 9, 9, size, 0))
        file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, size, 1))
        file.write(struct.pack("<4sHHHHIIH", END, 0, 0, 9, 9, 0xFFFFFFFF, 0, 0))


class _Holes(io.FileIO):
    def write(self, data: object) -> int:
        if isinstance(data, memoryview) and len(data) == 1:
            self.seek((1 << 38) - 1, io.SEEK_CUR)
            super().write(data)
            return 1 << 38
        return super().write(data)  # type: ignore[arg-type]


def sparse_record(path: Path, name: str = "data.pkl") -> None:
    """A whole archive in which one record is a hole of a quarter of a terabyte."""
    rest = [(n[2:], len(data), [data]) for n, data in GOOD if n[2:] != name]
    with _Holes(path, "wb") as file:
        write_records(file, "a", [*rest, (name, 1 << 38, [b"\0"])])  # type: ignore[arg-type]
    assert path.stat().st_size > 1 << 38


def sparse_byte_order(path: Path) -> None:
    sparse_record(path, "byteorder")


@pytest.mark.parametrize(
    "make", [fifo, looped, linked_device, sparse, sparse_directory, sparse_record, sparse_byte_order, Path.mkdir]
)
def test_what_is_no_plain_file_or_is_immense_neither_hangs_nor_fills_memory(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    make(path)
    assert outcomes([path])[path] in ZIP_PROBLEMS


def test_a_path_that_is_none_is_one_clear_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / "nul\0.pt", tmp_path / ("x" * 5000)):
        with pytest.raises(CheckpointError, match="cannot be read"):
            Archive(path)


def test_many_records_are_bounded(tmp_path: Path) -> None:
    # 300 000 entries that all name one place: no file of that many records is read
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", CENTRAL, *[0] * 9, 3, *[0] * 6) + b"a/b"
    directory = entry * 300_000
    end = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 0, 0, 0, 0, 300_000, 300_000, len(directory), 0)
    end += struct.pack("<4sIQI", b"PK\x06\x07", 0, len(directory), 1)
    end += struct.pack("<4sHHHHIIH", END, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0, 0)
    (tmp_path / "a.pt").write_bytes(directory + end)
    with pytest.raises(CheckpointError, match="more than a checkpoint can need"):
        Archive(tmp_path / "a.pt")


def hostile_archive(path: Path) -> None:
    data = b"\x80\x02" + tensor(hooks=SYSTEM) + b"."
    write_archive(path, "a", [("data.pkl", len(data), [data]), ("data/0", 16, [bytes(16)])])


@pytest.mark.parametrize("make", [fifo, sparse_record, hostile_archive])
@pytest.mark.parametrize("verb", [["inspect"], ["verify"], ["reset", "--in-place", "--init", "normal:0.02"]])
def test_the_verbs_refuse_a_hostile_file_in_a_tag(
    verb: list[str], make: Callable[[Path], None], checkpoint: Callable[[str], Path]
) -> None:
    tag = checkpoint("zero1-fp32-pp1-tp1-dp1")
    bad = tag / "layer_03-model_00-model_states.pt"  # not the embedding's
    bad.unlink()
    make(bad)
    before = {path: path.read_bytes() for path in sorted(tag.rglob("*")) if path.is_file() and path != bad}
    command = [sys.executable, "-m", "gaff", "surgery", verb[0], str(tag), *verb[1:]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tag, check=False)
    assert done.returncode == 1, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if str(bad) in line]
    assert len(said) == 1
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in sorted(tag.rglob("*")) if path.is_file() and path != bad} == before
