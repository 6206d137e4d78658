# SPDX-License-Identifier: Apache-2.0
"""What all cases share: one config on real text, and the two runs that nothing disturbed."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.faults import processes
from tests.live import CONFIG

K, END = 12, 36  # resets after 12 and 24
TAGS = (12, 24, 36)
_TEMPLATE = "zero1-fp32-tp2-pp2-dp2"  # a real checkpoint of eight ranks: many files for surgery to patch
_TRUSTED: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
_FIXTURES = Path(__file__).parents[1] / "fixtures" / "neox-checkpoints"


class Grounds:
    """Each part is made, in ``place``, when it is first asked for."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def prepare(self, trainers: Iterable[str]) -> None:
        """Make all that cases of these trainers need, before several of them run at a time."""
        made = [self.template, self.clock_library, *map(self.undisturbed, trainers)]
        assert all(path is None or path.exists() for path in made)

    @cached_property
    def config(self) -> Path:
        """One rank, an iteration of some hundredths of a second, so that there is a middle to hit."""
        from gaff.data.corpus import write_corpus
        from gaff.data.tokenizers import CharLevel

        data = write_corpus(self.place / "data", CharLevel(), characters=100_000)
        text = CONFIG.replace("DATA", str(data)).replace("TRAIN_ITERS", str(END)).replace("RESET_EVERY", str(K))
        text = text.replace("global_num_gpus: 2", "global_num_gpus: 1").replace("warmup: 0.01", "warmup: 0")
        text = text.replace("train_micro_batch_size_per_gpu: 4", "train_micro_batch_size_per_gpu: 80")
        path = self.place / "bench.yml"
        path.write_text(text)
        return path

    @cached_property
    def template(self) -> Path:
        """The tag that the stand-in trainer "trains"."""
        with tarfile.open(_FIXTURES / f"{_TEMPLATE}.tar.xz") as archive:
            archive.extractall(self.place, **_TRUSTED)
        return self.place / _TEMPLATE / "global_step5"

    @cached_property
    def clock_library(self) -> Path | None:
        """What moves the clock of the processes that preload it; None where no compiler is.

        libfaketime 0.9.10 does not do: under it Python's ``time.sleep`` fails now and then with EINVAL.
        """
        compiler, library = shutil.which("cc"), self.place / "clock.so"
        if compiler is None:
            return None
        source = Path(__file__).with_name("clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return library

    def command(self, trainer: str, root: Path, *options: str, modes: str = "{}") -> list[str]:
        """Module and arguments that start or carry on a run, with the bundled trainer or the stand-in."""
        told = ["--config", str(self.config), "--run-dir", str(root), *options]
        if trainer == "bundled":
            return ["gaff", "run", *told]
        return ["tests.faults.stand_in", str(self.template), modes, *told]

    def undisturbed(self, trainer: str) -> Path:
        """The final tag of a run of that trainer which nothing disturbed."""
        return self._bundled if trainer == "bundled" else self._stand_in

    @cached_property
    def _bundled(self) -> Path:
        return self._finished("bundled")

    @cached_property
    def _stand_in(self) -> Path:
        return self._finished("stand-in")

    def _finished(self, trainer: str) -> Path:
        root = self.place / f"undisturbed-{trainer}"
        output = self.place / f"undisturbed-{trainer}.txt"
        code = processes.start(self.command(trainer, root), output).wait(600)
        assert code == 0, output.read_text()
        return root / "checkpoints" / f"global_step{END}"
