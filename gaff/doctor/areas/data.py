# SPDX-License-Identifier: Apache-2.0
"""The config with its data and tokenizer: every rule of ``gaff plan``, and what only a look into the files shows."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gaff.data.indexed_dataset import IndexedDataset
from gaff.doctor.finding import Finding, from_problem
from gaff.doctor.subject import Subject
from gaff.errors import GaffError, Problem
from gaff.plan.checks import check, warnings
from gaff.plan.config import Config
from gaff.plan.tokenizer import vocabulary
from gaff.plan.typed import items, text
from gaff.report.format import count, size

AREA = "config and data"
_SPLITS = ("train", "valid", "test")
_UINT16 = 1 << 16  # ids that two bytes hold
_LOOKED_AT = 1_000_000  # tokens at the beginning of a data set


@dataclass(frozen=True)
class DataSet:
    """One ``.bin/.idx`` pair.

    Attributes:
        trouble: why it cannot be read; None when it can.
        writable: whether index maps can be put beside it.
        token_bytes: bytes of one token.
        largest: token id among those looked at; -1 when there is none.
    """

    prefix: str
    trouble: Problem | None = None
    tokens: int = 0
    documents: int = 0
    token_bytes: int = 0
    largest: int = -1
    writable: bool = True


@dataclass(frozen=True)
class DataFacts:
    """Attributes:
    sources: the config's files.
    vocabulary: tokens of the tokenizer, None when its file is not here.
    rows: of the embedding, None when they are not known.
    maps: whether the trainer puts index maps beside the data.
    """

    sources: tuple[str, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    sets: tuple[DataSet, ...]
    vocabulary: int | None
    rows: int | None
    tokenizer: str
    maps: bool


def examine(subject: Subject) -> Iterator[Finding]:
    if subject.config is not None:
        yield from judge(gather(subject, subject.config))


def gather(subject: Subject, config: Config) -> DataFacts:
    prefixes = [text(config, "data_path")]
    prefixes += [path for split in _SPLITS for path in items(config, f"{split}_data_paths")]
    there = dict.fromkeys(path for path in prefixes if isinstance(path, str) and _is_there(path))
    words = vocabulary(config)
    return DataFacts(
        sources=tuple(str(path) for path in config.sources),
        problems=tuple(check(config)),
        warnings=tuple(warnings(config)),
        sets=tuple(look(prefix) for prefix in there),
        vocabulary=None if words is None or words.assumed else words.tokens,
        rows=words.rows if words else None,
        tokenizer=str(config.get("tokenizer_type", "GPT2BPETokenizer")),
        maps=subject.trainer == "neox",
    )


def _is_there(prefix: str) -> bool:
    return os.path.isfile(f"{prefix}.bin") and os.path.isfile(f"{prefix}.idx")


def look(prefix: str) -> DataSet:
    """Read the index of a data set."""
    try:
        data = IndexedDataset(prefix)
    except GaffError as error:
        return DataSet(prefix, error.problems[0])
    except OSError as error:
        return DataSet(prefix, Problem("data-unreadable", f"{error.filename}: {error.strerror}", "make it readable"))
    return DataSet(
        prefix=prefix,
        tokens=data.tokens,
        documents=data.documents,
        token_bytes=data.dtype.itemsize,
        largest=_largest(data),
        writable=os.access(Path(prefix).parent, os.W_OK | os.X_OK),
    )


def _largest(data: IndexedDataset) -> int:
    largest, seen = -1, 0
    for number in range(len(data)):
        sequence = data.sequence(number, 0, _LOOKED_AT - seen)
        seen += len(sequence)
        largest = max(largest, int(sequence.max())) if len(sequence) else largest
        if seen >= _LOOKED_AT:
            break
    return largest


def judge(facts: DataFacts) -> Iterator[Finding]:
    yield from (from_problem(AREA, problem) for problem in facts.problems)
    yield from (from_problem(AREA, problem, "warning") for problem in facts.warnings)
    if not facts.problems:
        yield Finding("config", AREA, "ok", f"{', '.join(facts.sources)}: no rule of `gaff plan` is broken")
    for data in facts.sets:
        yield from _set(data, facts)
    if facts.vocabulary is not None:
        yield Finding("tokenizer", AREA, "ok", f"{facts.tokenizer} with {facts.vocabulary:,} tokens")


def _set(data: DataSet, facts: DataFacts) -> Iterator[Finding]:
    folder = shlex.quote(str(Path(data.prefix).parent))
    if data.trouble is not None:
        remedy = f"ls -l {shlex.quote(data.prefix)}.*  # {data.trouble.remedy}"
        place = f"{data.trouble.where}: " if data.trouble.where else ""
        yield Finding(data.trouble.id, AREA, "problem", f"{place}{data.trouble.what}", remedy)
        return
    what = f"{data.prefix}: {data.tokens:,} tokens in {count(data.documents, 'document')}"
    yield Finding("data", AREA, "ok", f"{what}, {size(data.tokens * data.token_bytes)}")
    if data.token_bytes == 2 and facts.vocabulary is not None and facts.vocabulary > _UINT16:
        what = f"{data.prefix} has tokens of two bytes, and the tokenizer has {facts.vocabulary:,}: it made other data"
        remedy = "# prepare the data with this tokenizer, or name the one that it was prepared with"
        yield Finding("data-vocabulary", AREA, "problem", what, remedy)
    elif facts.rows is not None and data.largest >= facts.rows:
        what = f"{data.prefix} has the token {data.largest:,}, and the embedding only {facts.rows:,} rows"
        remedy = "# name the tokenizer that the data was prepared with (tokenizer_type, vocab_file)"
        yield Finding("data-vocabulary", AREA, "problem", what, remedy)
    if facts.maps and not data.writable:
        what = f"{folder} is not writable: GPT-NeoX puts its index maps beside the data at the first start"
        remedy = f"chmod u+w {folder}  # or, in a directory of yours: ln -s {shlex.quote(data.prefix)}.* ."
        yield Finding("data-directory", AREA, "problem", what, remedy)
