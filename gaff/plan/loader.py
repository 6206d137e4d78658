# SPDX-License-Identifier: Apache-2.0
"""What GPT-NeoX's data loader costs beside the training: host memory and time to start.  Pure arithmetic.

It keeps every batch that it has handed out until the process ends, as 64-bit tokens, and at each start steps over all
samples that were trained before, one by one (contract section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gaff.plan.estimates import Batch
from gaff.plan.schedule import Segment

_TOKEN_BYTES = 8
_SKIPPED_PER_SECOND = 4_000_000  # samples, on one CPU core (measured, contract section 3)


@dataclass(frozen=True)
class LoaderCost:
    """Per rank that reads data.

    Attributes:
        kept_bytes: host memory for batches at the end of the longest segment.
        skipped: samples stepped over before the last segment, None when the batch over all GPUs is not known.
        skip_seconds: the time for that, about.
    """

    kept_bytes: int
    skipped: int | None
    skip_seconds: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def loader_cost(batch: Batch | None, segments: Sequence[Segment]) -> LoaderCost | None:
    """The cost of a run in these segments; None when the batch of one rank is not known."""
    if batch is None or batch.samples_per_gpu is None:
        return None
    longest = max(segment.iterations for segment in segments)
    kept = batch.samples_per_gpu * (batch.sequence + 1) * _TOKEN_BYTES * longest
    skipped = None if batch.samples is None else segments[-1].start * batch.samples
    return LoaderCost(kept, skipped, None if skipped is None else skipped / _SKIPPED_PER_SECOND)
