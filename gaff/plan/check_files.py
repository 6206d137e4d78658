# SPDX-License-Identifier: Apache-2.0
"""Rules: the files that a config names are there: data, tokenizer, hostfile, the values of a reset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.directories import directory_problem
from gaff.plan.tokenizer import tokens_in_file
from gaff.plan.typed import items, text, word

_SPLITS = ("train", "valid", "test")
_LABELS = tuple(f"{split}_{kind}_data_paths" for split in _SPLITS for kind in ("label", "reward"))
#: tokenizer_type (lower case) -> keys that must name a file.
_TOKENIZER_FILES = {
    "hftokenizer": ("vocab_file",),
    "spmtokenizer": ("vocab_file",),
    "gpt2bpetokenizer": ("vocab_file", "merge_file"),
}
_HOW_DATA = "give the path without .bin, as preprocess_data.py of GPT-NeoX wrote it"


def check_files(config: Config) -> Iterator[Problem]:
    """Everything that is read from disk during the run."""
    yield from _data(config)
    yield from _tokenizer(config)
    yield from _others(config)


def _data(config: Config) -> Iterator[Problem]:
    single = text(config, "data_path")
    lists = {split: items(config, f"{split}_data_paths") for split in _SPLITS}
    if single is None and not lists["train"]:
        what = "neither `data_path` nor `train_data_paths` is given"
        yield config.problem("data-missing", "data_path", what, "name the .bin/.idx pair to train on")
    if single is not None:
        if any(lists.values()):
            what = "`data_path` and `train_data_paths` (or valid, test) are both given"
            yield config.problem("data-twice", "data_path", what, "keep one of the two ways")
        yield from _pair(config, "data_path", single)
    given = [split for split in _SPLITS if lists[split]]
    if given and len(given) < len(_SPLITS):
        lacking = ", ".join(f"`{split}_data_paths`" for split in _SPLITS if split not in given)
        what = f"GPT-NeoX wants lists for train, valid and test together; {lacking} is missing"
        yield config.problem("data-lists", f"{given[0]}_data_paths", what, "add it; it may repeat the training data")
    for key in (*(f"{split}_data_paths" for split in given), *_LABELS):
        for index, prefix in enumerate(items(config, key)):
            yield from _pair(config, f"{key}.{index}", str(prefix))
    yield from _weights(config, given)


def _pair(config: Config, key: str, prefix: str) -> Iterator[Problem]:
    missing = [suffix for suffix in (".bin", ".idx") if not os.path.isfile(prefix + suffix)]
    if not missing:
        return
    if prefix.endswith((".bin", ".idx")) and os.path.isfile(prefix):
        what = f"the data path {prefix} must be given without {prefix[-4:]}"
        yield config.problem("data-suffix", key, what, "remove the ending")
        return
    names = " and ".join(f"{prefix}{suffix}" for suffix in missing)
    what = f"the data file {names} is not there" if len(missing) == 1 else f"the data files {names} are not there"
    yield config.problem("data-file-missing", key, what, _HOW_DATA)


def _weights(config: Config, given: list[str]) -> Iterator[Problem]:
    for split in given:
        key = f"{split}_data_weights"
        weights, paths = items(config, key), items(config, f"{split}_data_paths")
        if weights and len(weights) != len(paths):
            what = f"`{key}` has {len(weights)} entries for {len(paths)} data paths"
            yield config.problem("data-weights", key, what, "give one weight for each path")


def _tokenizer(config: Config) -> Iterator[Problem]:
    tokenizer = word(config, "tokenizer_type")
    for key in _TOKENIZER_FILES.get(tokenizer, ()):
        path = text(config, key)
        name = config.get("tokenizer_type", "GPT2BPETokenizer")
        if path is None:
            what = f"tokenizer_type {name} needs `{key}`"
            yield config.problem("tokenizer-file-missing", key, what, f"add {key} with the tokenizer's file")
        elif not os.path.isfile(path):
            what = f"the tokenizer file {path} is not there"
            yield config.problem("tokenizer-file-missing", key, what, f"mend `{key}` or fetch the file")
        elif key == "vocab_file" and tokens_in_file(Path(path), tokenizer) is None:
            what = f"{path} is no file for {name}"
            yield config.problem("tokenizer-file-kind", key, what, "mend `tokenizer_type` or `vocab_file`")
    if tokenizer == "tiktokentokenizer" and text(config, "vocab_file") is None:
        what = "tokenizer_type TiktokenTokenizer needs the name of an encoding in `vocab_file`"
        yield config.problem("tokenizer-file-missing", "vocab_file", what, "write cl100k_base, for example")


def _others(config: Config) -> Iterator[Problem]:
    hostfile = text(config, "hostfile")
    if hostfile is not None and not os.path.isfile(hostfile):
        what = f"the hostfile {hostfile} is not there"
        yield config.problem("hostfile-missing", "hostfile", what, "remove the key for one machine, or write the file")
    if config.gaff.init.path is not None and not os.path.isfile(config.gaff.init.path):
        what = f"the file of new values {config.gaff.init.path} is not there"
        yield config.problem("init-file-missing", "gaff.init", what, "mend the path")
    save = text(config, "save")
    if save:
        where = config.where("save")
        problem = directory_problem(Path(save), "`save`", "name another directory", for_tags=True, where=where)
        if problem:
            yield problem
