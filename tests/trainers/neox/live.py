# SPDX-License-Identifier: Apache-2.0
"""What tests on unmodified GPT-NeoX share: where it is, a corpus, and runs of the real command on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gaff.trainers.contract import Event, IterationLogged
from gaff.trainers.loglines import read_log
from tests.live import write_config

#: The marks of a whole module of such tests.
MARKS = [
    pytest.mark.neox,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("GPT_NEOX_DIR"),
        reason="GPT_NEOX_DIR is not set: there is no GPT-NeoX to run (gaff neox install --cpu makes one)",
    ),
]


@dataclass(frozen=True)
class Finished:
    """A run of ``gaff`` that has ended."""

    root: Path
    code: int
    output: str
    errors: str

    def tag(self, iteration: int) -> Path:
        return self.root / "checkpoints" / f"global_step{iteration}"

    @property
    def logs(self) -> list[Path]:
        """Of all launches, in their order."""
        return sorted(self.root.glob("segments/*/attempt-*.log"))

    def events(self) -> list[Event]:
        return [event for log in self.logs for event in read_log(log)]

    def logged(self) -> list[IterationLogged]:
        return [event for event in self.events() if isinstance(event, IterationLogged)]

    def told(self) -> str:
        """Everything that was said, for the message of an assertion."""
        tail = self.logs[-1].read_text(errors="replace")[-3000:] if self.logs else ""
        return f"{self.output}\n{self.errors}\n{tail}"


def corpus(folder: Path) -> Path:
    """The prefix of English text in bytes, for a CharLevelTokenizer."""
    from gaff.data.corpus import write_corpus
    from gaff.data.tokenizers import CharLevel

    return write_corpus(folder, CharLevel(), characters=300_000)


def run_gaff(*arguments: str | Path, environment: Mapping[str, str] = {}, timeout: float = 900) -> tuple[int, str, str]:
    """Exit code, output and errors of the command line."""
    done = subprocess.run(
        [sys.executable, "-m", "gaff", *map(str, arguments)],
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def train(
    folder: Path,
    data: Path,
    overrides: Sequence[str] = (),
    *,
    train_iters: int,
    reset_every: int,
    name: str = "run",
    environment: Mapping[str, str] = {},
    more: Sequence[str] = (),
) -> Finished:
    """``gaff run`` on GPT-NeoX without a GPU, in ``folder/name``, with ``more`` words.  A second call carries it on."""
    config = write_config(folder / f"{name}.yml", data, train_iters=train_iters, reset_every=reset_every)
    options = [word for override in (*_ON_NEOX, *overrides) for word in ("-o", override)]
    root = folder / name
    command = ("run", "--config", config, *options, "--run-dir", root, *more)
    return Finished(root, *run_gaff(*command, environment=environment))


_ON_NEOX = (
    "gaff.trainer=neox",
    "gaff.device=cpu-beside-gpus",
    "num_workers=0",
    "deepspeed_extra_args={gradient_clipping: 1.0}",
)
