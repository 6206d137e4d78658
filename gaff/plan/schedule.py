# SPDX-License-Identifier: Apache-2.0
"""Segments and resets, worked out from four numbers before anything runs.  Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reset:
    """One forgetting event: made in the checkpoint of ``iteration``, after exactly that iteration.

    ``number`` counts from 1 over the whole run and seeds the new values.
    """

    number: int
    iteration: int


@dataclass(frozen=True)
class Segment:
    """Iterations ``start`` (exclusive) to ``stop`` (inclusive), trained by one launch of the trainer.

    ``number`` counts from 1.  ``reset`` is made in the checkpoint at ``stop``; the last segment has none.
    """

    number: int
    start: int
    stop: int
    reset: Reset | None

    @property
    def iterations(self) -> int:
        return self.stop - self.start


def schedule(
    train_iters: int, reset_every: int | None, first_reset: int | None = None, last_reset: int | None = None
) -> tuple[Segment, ...]:
    """All segments of a run, in order.

    Resets fall on first, first + k, first + 2k, … up to ``last_reset`` and always before ``train_iters``: embeddings
    are never reset after the final step (Aggarwal et al., arXiv 2410.16168).  The numbers are taken as already checked.
    """
    stops: list[int] = []
    if reset_every is not None:
        last = train_iters - 1 if last_reset is None else min(last_reset, train_iters - 1)
        stops = list(range(first_reset or reset_every, last + 1, reset_every))
    edges = [0, *stops, train_iters]
    return tuple(
        Segment(
            number=i + 1,
            start=edges[i],
            stop=edges[i + 1],
            reset=Reset(number=i + 1, iteration=edges[i + 1]) if i < len(stops) else None,
        )
        for i in range(len(edges) - 1)
    )
