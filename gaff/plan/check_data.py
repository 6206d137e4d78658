# SPDX-License-Identifier: Apache-2.0
"""Rules: what GPT-NeoX's data loader does that the config does not show: stale index maps, memory that it keeps."""

from __future__ import annotations

from collections.abc import Iterator

from gaff.errors import Problem
from gaff.plan.check_schedule import segments_of
from gaff.plan.config import Config
from gaff.plan.estimates import batch
from gaff.plan.index_maps import IndexMaps, index_maps
from gaff.plan.loader import loader_cost
from gaff.plan.typed import text, word

_MUCH_MEMORY = 8e9  # bytes of one rank
_REBUILD = "delete them, and GPT-NeoX builds them anew"


def check_data(config: Config) -> Iterator[Problem]:
    """Warnings about the loader; the bundled trainer has its own, without these faults."""
    if config.gaff.trainer == "bundled":
        return
    for maps in index_maps(config):
        try:
            problem = _stale(config, maps) if maps.there else None
        except OSError:
            continue  # the data is not there, which is told elsewhere, or cannot be read, which its reader will tell
        if problem is not None:
            yield problem
    yield from _memory(config)


def _stale(config: Config, maps: IndexMaps) -> Problem | None:
    names = f"{maps.stem}_*_idx.npy"
    packed = word(config, "pack_impl") in ("", "packed")
    if packed and maps.of_other_documents(text(config, "split") or ""):
        what = f"the index maps {names} were built for another `split` or other data, and GPT-NeoX would use them"
        return config.problem("index-maps-stale", maps.key, what, _REBUILD)
    if maps.older_than_the_data:
        what = f"the index maps {names} are older than the data, and GPT-NeoX would use them silently"
        return config.problem("index-maps-stale", maps.key, what, _REBUILD)
    return None


def _memory(config: Config) -> Iterator[Problem]:
    segments, reset_every = segments_of(config), config.gaff.reset_every
    cost = loader_cost(batch(config), segments) if segments else None
    if cost is None or cost.kept_bytes <= _MUCH_MEMORY:
        return
    longest = max(segment.iterations for segment in segments)
    what = (
        f"GPT-NeoX's loader keeps every batch: {cost.kept_bytes / 1e9:.1f} GB of host memory in each rank that reads"
        f" data after the {longest:,} iterations of the longest segment"
    )
    remedy = "see to it that the nodes have that much beside the model's"
    if reset_every is not None and longest > reset_every:
        remedy += ", or make the first and the last segment shorter"
    yield config.problem("loader-memory", "gaff.reset_every", what, remedy)
