# SPDX-License-Identifier: Apache-2.0
"""The corpus and its tokenizers: real text, deterministic, whole files only."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from gaff.data import corpus
from gaff.data.indexed_dataset import IndexedDataset, bin_path, idx_path
from gaff.data.tokenizers import CharLevel, HuggingFace, load_tokenizer, train_bpe
from gaff.errors import InputError


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return list(itertools.islice(corpus.english_text(), 120))


def test_corpus_is_english(texts: list[str]) -> None:
    words = " ".join(texts).split()
    assert len(words) > 20_000
    assert {"the", "of", "and", "is"} <= set(words)


def test_corpus_is_the_same_twice(texts: list[str]) -> None:
    assert list(itertools.islice(corpus.english_text(), 120)) == texts


def test_corpus_does_without_the_language_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    documents = list(itertools.islice(corpus.english_text(), 5))
    assert len(documents) == 5


def test_limited_text_stops_after_the_document_that_fills_it(texts: list[str]) -> None:
    limited = list(corpus.limited_text(10_000))
    assert limited == texts[: len(limited)]
    assert sum(map(len, limited)) >= 10_000 > sum(map(len, limited[:-1]))


def test_written_corpus_ends_each_document_with_eod_and_holds_the_text(tmp_path: Path, texts: list[str]) -> None:
    prefix = corpus.write_corpus(tmp_path, CharLevel(), characters=3_000)
    dataset = IndexedDataset(prefix)
    first = dataset.sequence(0)
    assert first[-1] == CharLevel.eod
    assert bytes(first[:-1].astype("u1")).decode() == texts[0]


def test_written_corpus_is_reused_and_a_half_written_one_is_not(tmp_path: Path) -> None:
    prefix = corpus.write_corpus(tmp_path, CharLevel(), characters=1_000)
    whole = bin_path(prefix).read_bytes()
    bin_path(prefix).write_bytes(whole[:10])
    idx_path(prefix).unlink()  # a crash came before the index, which is renamed last
    assert corpus.write_corpus(tmp_path, CharLevel(), characters=1_000) == prefix
    assert bin_path(prefix).read_bytes() == whole
    stamp = bin_path(prefix).stat().st_mtime_ns
    corpus.write_corpus(tmp_path, CharLevel(), characters=1_000)
    assert bin_path(prefix).stat().st_mtime_ns == stamp


def test_bpe_is_deterministic_and_loses_nothing(tmp_path: Path, texts: list[str]) -> None:
    pytest.importorskip("tokenizers")
    first = train_bpe(texts, 400, tmp_path / "a.json")
    train_bpe(texts, 400, tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (first.vocab_size, first.eod) == (400, 0)
    sample = "Naïve façade — 東京 the of\n\ttabs"
    ids = first.encode(sample)
    import tokenizers

    assert tokenizers.Tokenizer.from_file(str(tmp_path / "a.json")).decode(ids) == sample
    assert max(ids) < 400
    assert len(ids) < len(sample.encode())


def test_config_names_a_tokenizer(tmp_path: Path) -> None:
    assert load_tokenizer("CharLevelTokenizer", None).encode("é!") == [0xC3, 0xA9, 0x21]
    with pytest.raises(InputError, match="TiktokenTokenizer is not known"):
        load_tokenizer("TiktokenTokenizer", None)
    with pytest.raises(InputError, match="no such tokenizer file"):
        HuggingFace(tmp_path / "none.json")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InputError, match="this is no tokenizer"):
        HuggingFace(tmp_path / "bad.json")
