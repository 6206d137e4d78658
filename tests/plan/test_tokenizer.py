# SPDX-License-Identifier: Apache-2.0
"""Vocabulary sizes, against the libraries that GPT-NeoX asks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.plan.config import Config
from gaff.plan.tokenizer import tokens_in_file, vocabulary

Load = Callable[..., Config]


@pytest.fixture
def hf_file(tmp_path: Path) -> Path:
    """A tokenizer.json as the tokenizers library writes it: added tokens partly in the vocabulary, partly not."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "<pad>": 2}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<pad>", "<|endoftext|>"])
    tokenizer.add_tokens(["new", "newer"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 6
    return tmp_path / "tokenizer.json"


def test_added_tokens_count_once(hf_file: Path) -> None:
    assert tokens_in_file(hf_file, "hftokenizer") == 6


def test_a_unigram_tokenizer_has_a_list_of_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram([("a", -1.0), ("b", -2.0)]))
    tokenizer.save(str(tmp_path / "t.json"))
    assert tokens_in_file(tmp_path / "t.json", "hftokenizer") == tokenizer.get_vocab_size() == 2


def test_the_file_wins_over_a_well_known_name(load: Load, hf_file: Path) -> None:
    named = hf_file.rename(hf_file.with_name("20B_tokenizer.json"))
    found = vocabulary(load("tokenizer_type=HFTokenizer", f"vocab_file={named}"))
    assert found is not None
    assert (found.tokens, found.rows, found.assumed) == (6, 128, False)


def test_a_well_known_name_is_marked_as_assumed_where_the_file_is_absent(load: Load) -> None:
    found = vocabulary(load("tokenizer_type=HFTokenizer", "vocab_file=absent/20B_tokenizer.json"))
    assert found is not None
    assert (found.tokens, found.assumed) == (50_277, True)
    assert found.source == "assumed: 20B_tokenizer.json is not here"


def test_gpt2_vocabulary_is_a_plain_mapping(load: Load, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "c": 2}))
    found = vocabulary(load("tokenizer_type=gpt2bpetokenizer", f"vocab_file={tmp_path}/vocab.json"))
    assert found is not None
    assert found.tokens == 3


def test_sentencepiece_pieces_are_counted_without_its_library(tmp_path: Path) -> None:
    pieces = b"".join(b"\x0a\x0c\x0a\x05piece\x15\x00\x00\x00\x00" for _ in range(300))
    trainer = b"\x12\x96\x01" + bytes(150)
    (tmp_path / "m.model").write_bytes(pieces + trainer)
    assert tokens_in_file(tmp_path / "m.model", "spmtokenizer") == 300
    (tmp_path / "m.model").write_bytes(pieces[:-1])
    assert tokens_in_file(tmp_path / "m.model", "spmtokenizer") is None


@pytest.mark.parametrize(
    ("overrides", "tokens"),
    [
        (["tokenizer_type=CharLevelTokenizer"], 512),
        (["tokenizer_type=TiktokenTokenizer", "vocab_file=cl100k_base"], 100_277),
        (["tokenizer_type=HFGPT2Tokenizer"], 50_258),
        (["tokenizer_type=HFTokenizer", "vocab_file=strange.json"], None),
        (["tokenizer_type=TiktokenTokenizer", "vocab_file=strange"], None),
    ],
)
def test_tokenizers_without_a_file_are_known_by_name(load: Load, overrides: list[str], tokens: int | None) -> None:
    found = vocabulary(load(*overrides))
    assert (found.tokens if found else None) == tokens


@pytest.mark.parametrize("content", ["[]", "{}", '{"model": {}}', "no json", '{"model": {"vocab": 5}}'])
def test_a_file_of_another_kind_has_no_size(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    assert tokens_in_file(tmp_path / "t.json", "hftokenizer") is None
