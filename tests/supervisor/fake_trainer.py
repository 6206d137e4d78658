# SPDX-License-Identifier: Apache-2.0
"""A trainer that trains nothing: it writes real checkpoint files, words its log as GPT-NeoX does, and can misbehave.

Its "training" copies the tag it starts from, so what a reset wrote is carried to the end and can be compared.

    python fake_trainer.py REQUEST.json
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.trainers.contract import Launch, SegmentRequest

ITERATION_LINE = (
    " samples/sec: 25.495 | iteration {iteration:8d}/{total:8d} | elapsed time per iteration (ms): {ms:.1f} | "
    "learning rate: 2.318E-04 | approx flops per GPU: 18.9GFLOPS | lm_loss: {loss:.6E} | "
    "number of skipped iterations:   0 | number of nan iterations:   0 |"
)


@dataclass
class FakeTrainer:
    """See :class:`gaff.trainers.contract.Trainer`.

    ``modes`` maps a segment's stop to how its first launch goes, or, with a ``!`` behind it, every
    one.
    """

    template: Path
    total: int
    modes: dict[int, str] = field(default_factory=dict)
    iteration_s: float = 0.01
    name: str = "fake"

    def check(self, config: Config) -> list[Problem]:
        return []

    def warnings(self, config: Config) -> list[Problem]:
        return []

    def fixed_port(self, config: Config) -> int | None:
        return None

    def launcher_keys(self, config: Config) -> dict[str, Any]:
        return {}

    def prepare(self, config: Config, request: SegmentRequest) -> Launch:
        first = not list(request.directory.glob("request-*.json"))
        mode = self.modes.get(request.stop, "good")
        path = request.directory / f"request-{len(list(request.directory.glob('request-*.json')))}.json"
        fields = {
            "start": request.start,
            "stop": request.stop,
            "save": str(request.save),
            "template": str(self.template),
            "total": self.total,
            "iteration_s": self.iteration_s,
            "mode": mode.rstrip("!") if first or mode.endswith("!") else "good",
        }
        path.write_text(json.dumps(fields))
        return Launch((sys.executable, __file__, str(path)), request.directory, {})


def set_iteration(tag: Path, iteration: int) -> None:
    """Write another iteration (below 256) into the pickles of a tag, keeping their CRCs right."""
    for path in tag.glob("mp_rank_*_model_states.pt"):
        archive = Archive(path)
        record = archive.records["data.pkl"]
        data = bytearray(archive.read(record, 0, record.size))
        at = data.index(b"X\x09\x00\x00\x00iteration") + 14
        at = data.index(b"K", at)  # BININT1, one byte
        data[at + 1] = iteration
        with open(path, "r+b") as file:
            file.seek(record.data_offset)
            file.write(data)
            for offset in record.crc_fields:
                file.seek(offset)
                file.write(zlib.crc32(data).to_bytes(4, "little"))


def write_tag(save: Path, source: Path, iteration: int, *, stop_in_the_middle: bool = False) -> None:
    """Write a tag as GPT-NeoX does: model files, optimizer shards, ``latest``, and ``configs/`` last."""
    tag = save / f"global_step{iteration}"
    tag.mkdir(parents=True)
    files = sorted(source.glob("*.pt"))
    for number, path in enumerate(files):
        shutil.copyfile(path, tag / path.name)
        if stop_in_the_middle and number == len(files) // 2:
            with open(tag / path.name, "r+b") as file:
                file.truncate(100)
            (save / "latest").write_text(tag.name)
            os.kill(os.getpid(), signal.SIGKILL)
    set_iteration(tag, iteration)
    (save / "latest").write_text(tag.name)
    shutil.copytree(source / "configs", tag / "configs", copy_function=shutil.copyfile)
    now = time.time()
    for path in (tag / "configs").iterdir():
        os.utime(path, (now, now))


PEER_LOST = """\
[rank1]: Traceback (most recent call last):
[rank1]:   File "/opt/gpt-neox/megatron/training.py", line 900, in train_step
[rank1]:     dist.all_reduce(t)
[rank1]: RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:45758: \
Connection reset by peer. This is typically caused by a remote worker hanging or bugs in the application.
"""
REAL_CAUSE = """\
[rank0]: Traceback (most recent call last):
[rank0]:   File "/opt/gpt-neox/megatron/model/word_embeddings.py", line 100, in forward
[rank0]:     embeddings = self.word_embeddings(input_ids)
[rank0]: IndexError: index out of range in self
"""
# A call that never returns, in a file of that name.
ALL_REDUCE = compile(
    "def all_reduce():\n    import time\n    time.sleep(600)\n",
    "/opt/venv/lib/python3.11/site-packages/torch/distributed/distributed_c10d.py",
    "exec",
)


def rank_main(ranks: str) -> None:
    """One rank of a launch in which rank 0 waits in a collective and another one never comes."""
    namespace: dict[str, object] = {}
    exec(ALL_REDUCE, namespace)
    all_reduce = namespace["all_reduce"]
    assert callable(all_reduce)
    if os.environ["RANK"] == "0":
        all_reduce()
    if ranks == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    load_batch()


def load_batch() -> None:
    time.sleep(600)


def launch_ranks(ranks: str) -> None:
    """As deepspeed.launcher.launch does: wait for two ranks, and end the other when one has died."""
    started = [
        subprocess.Popen([sys.executable, __file__, "--rank", ranks], env={**os.environ, "RANK": str(rank)})
        for rank in range(2)
    ]
    while all(process.poll() is None for process in started):
        time.sleep(0.02)
    for process in started:
        process.kill()
    sys.exit(1)


def end_as(mode: str) -> None:
    """Modes that end the launch after a few iterations."""
    if mode == "raises":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if mode in ("hangs", "deaf"):
        time.sleep(600)
    if mode == "naps":
        time.sleep(4)
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "out-of-memory":
        print("slurmstepd: error: Detected 1 oom_kill event in StepId=440575.0. Some of the step tasks have been OOM")
        sys.exit(247)
    if mode == "launcher-killed":
        sys.exit(0)
    if mode in ("peer-speaks-first", "peer-alone"):
        print(PEER_LOST + (REAL_CAUSE if mode == "peer-speaks-first" else ""), end="")
        sys.exit(1)
    if mode in ("collective", "stopped"):
        launch_ranks(mode)


def main() -> None:
    if sys.argv[1] == "--rank":
        rank_main(sys.argv[2])
        return
    request = json.loads(Path(sys.argv[1]).read_text())
    start, stop, mode, save = request["start"], request["stop"], request["mode"], Path(request["save"])
    if mode == "exit-0":
        print("ZeRO stage 2/3 and pipeline parallelism are not supported together")
        return
    if mode == "exit-0-silent":
        return
    if mode == "orphans":  # a rank that outlives its launcher, in a session of its own, deaf to SIGTERM
        deaf = "import signal,time;signal.signal(signal.SIGTERM,signal.SIG_IGN);time.sleep(600)"
        subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    begins = 0 if mode == "from-zero" else start
    print(f"Loading checkpoint and starting from iteration {begins}" if start else "training ...", flush=True)
    for iteration in range(begins + 1, stop + 1):
        spoilt = iteration > start + 3
        seconds = request["iteration_s"] * (100 if mode == "slow" and spoilt else 1)
        time.sleep(seconds)
        loss = math.nan if mode == "nan" and spoilt else 9 / iteration
        line = ITERATION_LINE.format(iteration=iteration, total=request["total"], loss=loss, ms=seconds * 1000)
        print(line, flush=True)
        if iteration == start + 3:
            end_as(mode)
    source = save / f"global_step{start}" if start else Path(request["template"])
    write_tag(save, source, stop, stop_in_the_middle=mode == "dies-saving")
    if mode == "good-but-exit-1":
        sys.exit(1)
    print(f"rank: 0 | time: 2026-11-21 03:12:11 | exiting the program at iteration {stop}", flush=True)


if __name__ == "__main__":
    main()
