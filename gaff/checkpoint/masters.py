# SPDX-License-Identifier: Apache-2.0
"""Whether the master weights of a tag are those of another step: how a run with swapped optimizer files is recognised.

The published GAFF scripts replaced the optimizer files by those of step 0, which hold the master copy of all weights:
training then goes on from the initial model, while the model copies, good for one forward pass only, look trained.

Two ways to tell.  Of two tags that were compared: their masters are the same, all of them or all but the embeddings,
though their iterations differ.  Of all tags of a run: first by the CRCs of the records that hold masters, which stand
in the files' directories, so that no tensor is read of tags that share none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.compare import Comparison, Difference, compare, shared_elements
from gaff.checkpoint.layout.layout import Layout
from gaff.checkpoint.layout.parameter import MASTER, MODEL, POSITION_EMBEDDING, is_vocabulary
from gaff.checkpoint.layout.read import read_layout
from gaff.checkpoint.tag import TAG_NAME
from gaff.errors import CheckpointError

SCHEMA = "gaff.diff-against-all/1"

_SWAPPED = "its optimizer files were swapped; training goes on from the old weights"
_WENT_BACK = "training went back to the old weights (optimizer files swapped?), or nothing was learnt in between"


def findings(a: Layout, b: Layout, found: Comparison) -> list[str]:
    """What a comparison of all kinds of copies tells about masters, in sentences that name the tags A and B."""
    told = []
    spoilt = ""
    same = _same_masters(found)
    if same and a.iteration != b.iteration:
        edited = bool(found.edited_a), bool(found.edited_b)
        later = "A" if a.iteration > b.iteration else "B"
        spoilt = later if edited[0] == edited[1] else "AB"[edited.index(True)]
        old = "AB".replace(spoilt, "")
        tags = {"A": a, "B": b}
        fact = f"the {same} of {spoilt} (iteration {tags[spoilt].iteration}) are those of {old}"
        told.append(f"{fact} (iteration {tags[old].iteration}): {_SWAPPED if any(edited) else _WENT_BACK}")
    for letter, tag, counts in (("A", a, found.edited_a), ("B", b, found.edited_b)):
        if counts and letter != spoilt:
            where = f"{len(counts)} of {len(found.differences)} parameters, {next(iter(counts))} first"
            what = f"the model copies of {letter} (iteration {tag.iteration}) are not its own masters in {where}"
            told.append(f"{what}: what differs is gone at the first step")
    return told


def _same_masters(found: Comparison) -> str | None:
    """Words for the weights that are equal: all, or all but the embeddings; None where others differ."""
    truths = {name: _truth(kinds) for name, kinds in found.differences.items() if kinds}
    different = {name for name, difference in truths.items() if difference.different}
    body = {name for name in truths if not (is_vocabulary(name) or name == POSITION_EMBEDDING)}
    if not body or body & different:
        return None
    return "master weights, all but the embeddings," if different else "master weights"


def _truth(kinds: dict[str, Difference]) -> Difference:
    """What training goes on from: the master, or the model copy where neither tag has one."""
    return kinds.get(MASTER) or kinds[MODEL]


def against_all(tag: Path) -> dict[str, Any]:
    """Compare the masters of a tag to those of every other tag of its save directory, ready for JSON.

    Raises:
        CheckpointError: the tag is incomplete, damaged or of a layout that is not handled.
    """
    layout = read_layout(tag)
    mine = _master_crcs(layout)
    others = [
        _against(layout, mine, path)
        for path in sorted(tag.resolve().parent.iterdir(), key=_iteration_of)
        if TAG_NAME.fullmatch(path.name) and path.is_dir() and path.resolve() != tag.resolve()
    ]
    return {
        "schema": SCHEMA,
        "checkpoint": str(tag),
        "iteration": layout.iteration,
        "records": len(mine),
        "tags": others,
        "sound": not any(other["findings"] for other in others),
    }


def _iteration_of(path: Path) -> int:
    named = TAG_NAME.fullmatch(path.name)
    return int(named[1]) if named else -1


def _master_crcs(layout: Layout) -> dict[tuple[str, str], tuple[int, int]]:
    """By file and record that hold weights training goes on from, the record's CRC and size."""
    records = {(c.file, c.record) for name in layout.parameters for c in layout.of_kind(name, layout.truth(name))}
    archives = {file: Archive(layout.path / file) for file in {file for file, _ in records}}
    found = {key: archives[key[0]].records[key[1]] for key in sorted(records)}
    return {key: (record.crc, record.size) for key, record in found.items()}


def _against(layout: Layout, mine: dict[tuple[str, str], tuple[int, int]], path: Path) -> dict[str, Any]:
    try:
        other = read_layout(path)
        others = set(_master_crcs(other).values())
        same = sum(value in others for value in mine.values())
        told = _compared(layout, other) if same else []
    except CheckpointError as error:
        return {"checkpoint": str(path), "error": error.problems[0].what, "findings": []}
    return {"checkpoint": str(path), "iteration": other.iteration, "same_records": same, "findings": told}


def _compared(a: Layout, b: Layout) -> list[str]:
    shared = [name for name in a.parameters if name in b.parameters and shared_elements(a, b, name)]
    found = compare(a, b, shared)
    return findings(a, b, found) if _same_masters(found) else []
