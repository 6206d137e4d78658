# SPDX-License-Identifier: Apache-2.0
"""What one reset costs, beside other ways to the same bytes, on the same checkpoint in the same run.

    python benchmarks/surgery.py [--shapes 70m,410m,1.4b] [--data-ranks 4] [--rounds 3] [--folder DIR]

For each shape one checkpoint of Pythia in GPT-NeoX's file layout is written (``pythia_checkpoint``).  Then, by turns
and each in a process of its own, with the disk at rest before:

* ``lower bound``: pwrite and fsync of as many bytes at the same places, from one buffer, nothing made and nothing read;
* ``gaff``: the reset in place: copies compared, old CRCs taken, values drawn, rounded, written, CRCs mended, recorded;
* ``gaff copy``: the same with --output, which copies the files that it touches;
* ``torch``: torch.load, edit, torch.save of the files that hold the embedding;
* ``torch all``: the same of those and all optimizer shards, as scripts do that do not know where the embedding lies.

Imports are not counted, memory is the whole process's peak.  Last, the start-up of every verb on a small checkpoint.
Needs ``gaff[bundled]`` and about 16 bytes of disk a parameter (1.4b: 23 GB, 6 GB of memory for torch).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pythia_checkpoint import ITERATION, SHAPES, VOCABULARY, write_checkpoint

EMBEDDING = "0.word_embeddings.weight"


class Measured(NamedTuple):
    seconds: float
    megabytes: float


def lower_bound(tag: Path, seed: int) -> None:
    """Write the embedding's bytes and those of its moments, all ones, so that the copies still agree."""
    import numpy as np

    from gaff.checkpoint.archive import Archive
    from gaff.checkpoint.layout.read import read_layout

    places = []
    for copy in read_layout(tag).copies[EMBEDDING]:
        record = Archive(tag / copy.file).records[copy.record]
        places.append((copy.file, record.data_offset + copy.offset, copy.length, copy.dtype))
    buffers = {dtype: memoryview(np.ones(1 << 19, dtype).tobytes()) for _, _, _, dtype in places}
    with timed():
        descriptors = {name: os.open(tag / name, os.O_RDWR) for name in dict.fromkeys(p[0] for p in places)}
        for name, offset, length, dtype in places:
            for start in range(0, length, len(buffers[dtype])):
                part = buffers[dtype][: min(len(buffers[dtype]), length - start)]
                os.pwrite(descriptors[name], part, offset + start)
        for descriptor in descriptors.values():
            os.fsync(descriptor)


def import_all() -> None:
    """What GAFF imports when it first needs it; the start-up of verbs is measured by itself."""
    for name in ("numpy", "ml_dtypes", "yaml", "isal.isal_zlib"):
        importlib.import_module(name)


def with_gaff(tag: Path, seed: int) -> None:
    from gaff.checkpoint.surgery.reset import ResetRequest, reset

    import_all()
    with timed():
        reset(tag, ResetRequest(number=1, seed=seed))


def with_gaff_copy(tag: Path, seed: int) -> None:
    from gaff.checkpoint.surgery.reset import ResetRequest, reset
    from gaff.checkpoint.tag_copy import copy_tag

    import_all()
    with tempfile.TemporaryDirectory(dir=tag.parent) as folder, timed():
        reset(copy_tag(tag, Path(folder)), ResetRequest(number=2, seed=seed))


def with_torch(tag: Path, seed: int, *, all_shards: bool = False) -> None:
    import torch

    torch.manual_seed(seed)
    layer = tag / "layer_00-model_00-model_states.pt"
    shards = sorted(tag.glob("zero_pp_rank_*_optim_states.pt"))
    touched = shards if all_shards else shards[: _shards_of_embedding(tag)]
    with timed():
        state = torch.load(layer, weights_only=False)
        rows, hidden = state["word_embeddings.weight"].shape
        new = torch.randn(rows, hidden) * (2 / (5 * hidden)) ** 0.5
        state["word_embeddings.weight"] = new.half()
        save(state, layer)
        done = 0
        for path in touched:
            state = torch.load(path, weights_only=False)
            inner = state["optimizer_state_dict"]
            piece = inner["param_slice_mappings"][0].get(EMBEDDING)
            if piece is not None:
                where = slice(piece.start, piece.start + piece.numel)
                inner["single_partition_of_fp32_groups"][0][where] = new.view(-1)[done : done + piece.numel]
                for moment in ("exp_avg", "exp_avg_sq"):
                    inner["base_optimizer_state"]["state"][0][moment][where] = 0
                done += piece.numel
            save(state, path)


def with_torch_all(tag: Path, seed: int) -> None:
    with_torch(tag, seed, all_shards=True)


def save(state: object, path: Path) -> None:
    """torch.save, made as durable as GAFF's writes."""
    import torch

    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def _shards_of_embedding(tag: Path) -> int:
    from gaff.checkpoint.layout.read import read_layout

    return len({copy.file for copy in read_layout(tag).copies[EMBEDDING] if copy.kind == "master"})


class timed:
    """Prints the seconds that its block took, for the parent to read."""

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        print(json.dumps(time.perf_counter() - self.began), flush=True)


WAYS: dict[str, Callable[[Path, int], None]] = {
    "lower bound": lower_bound,
    "gaff": with_gaff,
    "gaff copy": with_gaff_copy,
    "torch": with_torch,
    "torch all": with_torch_all,
}


def measure(way: str, tag: Path, seed: int) -> Measured:
    """One way in a process of its own."""
    os.sync()
    command = [sys.executable, __file__, "--one", way, str(tag), str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "DS_ACCELERATOR": "cpu"}, text=True)
    assert process.stdout is not None
    printed = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return Measured(float(printed[-1]), usage.ru_maxrss / 1024)


def generate(save: Path, name: str, data_ranks: int) -> Path:
    """A checkpoint, written by a process of its own: a child's peak memory counts from its parent's."""
    command = [sys.executable, __file__, "--generate", str(save), name, str(data_ranks)]
    subprocess.run(command, check=True, env={**os.environ, "DS_ACCELERATOR": "cpu"}, stderr=subprocess.DEVNULL)
    return save / f"global_step{ITERATION}"


def compare(name: str, folder: Path, data_ranks: int, rounds: int) -> None:
    tag = generate(folder / "save", name, data_ranks)
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    measure("lower bound", tag, 0)  # a first touch, which nobody is charged for
    for seed in range(rounds):
        for way in WAYS:
            found[way].append(measure(way, tag, seed + 1))
    seconds = {way: statistics.median(m.seconds for m in all_) for way, all_ in found.items()}
    size = sum(p.stat().st_size for p in tag.glob("*.pt")) / 1e9
    changed = VOCABULARY * SHAPES[name].hidden * (2 + 3 * 4) / 1e6
    print(f"\n{name}: {size:.1f} GB in {data_ranks} data ranks, a reset changes {changed:,.0f} MB")
    for way, all_ in found.items():
        memory = max(m.megabytes for m in all_)
        beside = f"{seconds[way] / seconds['lower bound']:6.1f} x the lower bound"
        against = (
            "" if way.startswith(("lower", "gaff")) else f", gaff is {seconds[way] / seconds['gaff']:.1f} x as fast"
        )
        print(f"  {way:<12} {seconds[way]:8.2f} s  {memory:7.0f} MB  {beside}{against}", flush=True)


def start_up(folder: Path) -> None:
    """Whole processes, by verb, on a checkpoint of 1 MB; with compiled modules at hand, as where GAFF is installed."""
    cached = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    tag = str(generate(folder / "tiny", "tiny", 2))
    other = shutil.copytree(tag, folder / "other" / "global_step2000")
    verbs = {
        "inspect": [tag],
        "verify": [tag],
        "reset": [tag, "--dry-run"],
        "diff": [tag, tag],
        "splice": ["--body", tag, "--embeddings", str(other), "--dry-run"],
        "resize": [tag, "--vocab", "50000", "--dry-run"],
        "restart-lr": [tag, "--dry-run"],
    }
    print("\nstart-up of a verb on a small checkpoint:")
    for verb, arguments in verbs.items():
        took = []
        for _ in range(5):
            began = time.perf_counter()
            command = [sys.executable, "-m", "gaff", "surgery", verb, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=cached)
            took.append(time.perf_counter() - began)
        print(f"  {verb:<12} {statistics.median(took):.2f} s", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        save, name, data_ranks = sys.argv[2:]
        write_checkpoint(Path(save), name, int(data_ranks))
        return
    if sys.argv[1:2] == ["--one"]:
        way, tag, seed = sys.argv[2:]
        WAYS[way](Path(tag), int(seed))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="70m,410m", help="of " + ", ".join(SHAPES))
    parser.add_argument("--data-ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write the checkpoints; a temporary folder by default")
    options = parser.parse_args()
    for name in options.shapes.split(","):
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            compare(name, folder, options.data_ranks, options.rounds)
        finally:
            shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(dir=options.folder) as small:
        start_up(Path(small))
    print(f"\npython {sys.version.split()[0]}, {os.cpu_count()} cores, {os.uname().machine}")


if __name__ == "__main__":
    main()
