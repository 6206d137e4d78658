# SPDX-License-Identifier: Apache-2.0
"""How many tokens the configured tokenizer has, read from its own file without a tokenizer library.

GPT-NeoX pads this number up to a multiple of ``make_vocab_size_divisible_by`` times the tensor-parallel size
(contract 5.1); both together are the rows of the embedding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaff.plan.config import Config
from gaff.plan.typed import at_least, tensor_parallel, text, word

_CHARACTERS = 512  # GPT-NeoX's CharLevelTokenizer

#: Files that many people use under these names, for planning on a machine that does not have them.
_WELL_KNOWN_FILES: Mapping[str, int] = {
    "20B_tokenizer.json": 50277,
    "gpt2-vocab.json": 50257,
}
#: tiktoken's encodings by name; GPT-NeoX takes ``vocab_file`` as such a name.
_TIKTOKEN: Mapping[str, int] = {
    "gpt2": 50257,
    "r50k_base": 50257,
    "p50k_base": 50281,
    "cl100k_base": 100277,
    "o200k_base": 200019,
}
_GPT2_AND_PADDING = 50258  # HFGPT2Tokenizer: GPT-2's 50257 tokens and the padding token that GPT-NeoX adds


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        tokens: how many there are.
        rows: rows of the embedding, after GPT-NeoX's padding.
        source: where the number comes from, in words.
        assumed: the tokenizer itself was not looked at, only its name.
    """

    tokens: int
    rows: int
    source: str
    assumed: bool


def vocabulary(config: Config) -> Vocabulary | None:
    """The vocabulary of the run, or None when the tokenizer's file is not here and its name says nothing."""
    found = _tokens(word(config, "tokenizer_type"), text(config, "vocab_file"))
    if found is None:
        return None
    tokens, source, assumed = found
    multiple = at_least(config, "make_vocab_size_divisible_by", 1) * tensor_parallel(config)
    return Vocabulary(tokens=tokens, rows=-(-tokens // multiple) * multiple, source=source, assumed=assumed)


def _tokens(tokenizer: str, vocab_file: str | None) -> tuple[int, str, bool] | None:
    if tokenizer == "charleveltokenizer":
        return _CHARACTERS, "CharLevelTokenizer", False
    if tokenizer == "tiktokentokenizer":
        size = _TIKTOKEN.get(vocab_file or "")
        return None if size is None else (size, f"tiktoken's {vocab_file}", True)
    if tokenizer == "hfgpt2tokenizer":
        plain = vocab_file in (None, "gpt2")
        return (_GPT2_AND_PADDING, "GPT-2's vocabulary and a padding token", True) if plain else None
    if not vocab_file:
        return None
    path = Path(vocab_file)
    if not os.path.isfile(path):
        size = _WELL_KNOWN_FILES.get(path.name)
        return None if size is None else (size, f"assumed: {path.name} is not here", True)
    size = tokens_in_file(path, tokenizer)
    return None if size is None else (size, path.name, False)


def tokens_in_file(path: Path, tokenizer: str) -> int | None:
    """Tokens in a tokenizer's file, None when the file is not of the kind that ``tokenizer`` (lower case) reads."""
    try:
        if tokenizer == "spmtokenizer":
            return _sentencepiece_pieces(path.read_bytes())
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, IndexError):
        return None
    if not isinstance(content, dict):
        return None
    return _hf_tokens(content) if tokenizer == "hftokenizer" else len(content)


def _hf_tokens(content: Mapping[str, Any]) -> int | None:
    """``Tokenizer.get_vocab_size()``: the model's tokens and those added tokens that it does not have."""
    model = content.get("model")
    known = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(known, list):  # Unigram: [token, score] pairs
        known = [pair[0] for pair in known if isinstance(pair, list) and pair]
    if not isinstance(known, (dict, list)):
        return None
    tokens = set(known)
    tokens.update(str(added["content"]) for added in content.get("added_tokens") or () if "content" in added)
    return len(tokens)


def _sentencepiece_pieces(data: bytes) -> int | None:
    """Entries of field 1 (``pieces``) in a sentencepiece model, which is one protobuf message."""
    position, pieces = 0, 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 2:
            length, position = _varint(data, position)
            pieces += tag >> 3 == 1
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        elif kind == 0:
            _, position = _varint(data, position)
        else:
            return None
    return pieces if position == len(data) and pieces else None


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
