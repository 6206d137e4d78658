# SPDX-License-Identifier: Apache-2.0
"""The bundled trainer in one launch that resets in memory: ``python -m tests.fidelity.in_loop_bundled CONFIG.yml``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from gaff.trainers.bundled import launch
from gaff.trainers.bundled.batches import Batch
from gaff.trainers.bundled.engine import Engine
from tests.fidelity.in_memory import Plan


def main() -> int:
    plan, train, done = Plan.handed_over(), Engine.train, 0

    def train_and_reset(self: Engine, batches: Iterable[Batch]) -> float:
        nonlocal done  # every rank is forked before its first iteration, and counts its own
        loss = train(self, batches)
        done += 1
        plan.after(done, self.deepspeed)
        return loss

    Engine.train = train_and_reset  # type: ignore[method-assign]
    return launch.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
