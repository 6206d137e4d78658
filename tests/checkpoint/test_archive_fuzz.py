# SPDX-License-Identifier: Apache-2.0
"""Real files, broken at random: whatever the damage, GAFF reads them or says one clear sentence.

Seeds are fixed.  ``GAFF_FUZZ_ROUNDS=100 pytest -m slow tests/checkpoint/test_archive_fuzz.py`` tries a hundred other
seeds, from ``GAFF_FUZZ_SEED`` on.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.archive_writer import write_archive
from gaff.checkpoint.pickle_parser import OPCODES
from tests.checkpoint.contained import outcomes

CASES = 300
SIGNATURES = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08", b"FB")
EDGES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff", b"\xff" * 4, b"\x00" * 4, b"\xff" * 8, b"\x00" * 8)
PROBLEMS = {
    "ok", "truncated-file", "not-a-checkpoint", "big-endian", "damaged-pickle", "forbidden-global", "missing-record",
    "strided-tensor",
}  # fmt: skip
Mutation = Callable[[bytearray, random.Random], None]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def cut_off(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 4, 64, 4096))]


def splice(data: bytearray, rng: random.Random) -> None:
    start, length, target = rng.randrange(len(data)), rng.choice((1, 4, 64, 4096)), rng.randrange(len(data))
    data[target : target + rng.choice((0, length))] = data[start : start + length]


def overwrite(data: bytearray, rng: random.Random) -> None:
    edge, start = rng.choice(EDGES), rng.randrange(len(data))
    data[start : start + len(edge)] = edge


def break_a_header(data: bytearray, rng: random.Random) -> None:
    """An extreme number in a field of one of the zip's own structures."""
    signature = rng.choice(SIGNATURES)
    places = [place for place in range(len(data)) if data.startswith(signature, place)]
    if places:
        start = rng.choice(places) + rng.randrange(56)
        edge = rng.choice(EDGES)
        data[start : start + len(edge)] = edge


def other_opcodes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 5, 20))):
        data[rng.randrange(len(data))] = rng.choice(OPCODES)


def more_opcodes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(2, len(data))
    data[start:start] = bytes(rng.choice(OPCODES) for _ in range(rng.choice((1, 2, 5, 20))))


def repeat(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.choice((1, 2, 10, 100))] * rng.choice((2, 10, 1000))


IN_THE_FILE: tuple[Mutation, ...] = (flip_bits, cut_off, cut_out, splice, overwrite, break_a_header, break_a_header)
IN_THE_PICKLE: tuple[Mutation, ...] = (
    flip_bits, cut_off, cut_out, splice, overwrite, other_opcodes, more_opcodes, repeat,
)  # fmt: skip


def random_pickle(rng: random.Random) -> bytes:
    return b"\x80\x02" + bytes(rng.choice(OPCODES) for _ in range(rng.randrange(1, 200))) + b"."


def broken(source: Path, target: Path, rng: random.Random) -> None:
    """Write a broken copy of a real file."""
    if rng.random() < 0.5:
        data = bytearray(source.read_bytes())
        rng.choice(IN_THE_FILE)(data, rng)
        target.write_bytes(data)
        return
    archive = Archive(source)
    record = archive.records["data.pkl"]
    pickled = bytearray(archive.read(record, 0, record.size))
    if rng.random() < 0.1:
        pickled = bytearray(random_pickle(rng))
    else:
        rng.choice(IN_THE_PICKLE)(pickled, rng)
    others = [r for r in archive.records.values() if r.name != "data.pkl"]
    rest = [(r.name, r.size, archive.chunks(r, 0, r.size)) for r in others]
    write_archive(target, archive.prefix, [("data.pkl", len(pickled), [bytes(pickled)]), *rest])


def check(seed: int, sources: list[Path], folder: Path) -> Counter[str]:
    rng = random.Random(seed)
    folder.mkdir(exist_ok=True)
    targets = [folder / f"{number}.pt" for number in range(CASES)]
    for target in targets:
        broken(rng.choice(sources), target, rng)
    before = {target: target.read_bytes() for target in targets}
    found = outcomes(targets)
    assert {path.name: outcome for path, outcome in found.items() if outcome not in PROBLEMS} == {}, f"seed {seed}"
    assert {target: target.read_bytes() for target in targets} == before
    return Counter(found.values())


@pytest.fixture(scope="module")
def sources(unpacked_checkpoints: Path) -> list[Path]:
    """One file of each kind that is small."""
    return [path for path in sorted(unpacked_checkpoints.rglob("*.pt")) if path.stat().st_size < 60_000]


@pytest.mark.parametrize("seed", [1, 2])
def test_broken_files_are_read_or_refused(seed: int, sources: list[Path], tmp_path: Path) -> None:
    found = check(seed, sources, tmp_path / "broken")
    assert found["ok"] > CASES / 20, "most of what is tried should get past the first check"
    assert found["truncated-file"] > CASES / 20
    assert found["damaged-pickle"] > CASES / 20


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_more_broken_files(sources: list[Path], tmp_path: Path) -> None:
    first = int(os.environ.get("GAFF_FUZZ_SEED", "1000"))
    for seed in range(first, first + int(os.environ.get("GAFF_FUZZ_ROUNDS", "5"))):
        check(seed, sources, tmp_path / "broken")
