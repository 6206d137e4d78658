# SPDX-License-Identifier: Apache-2.0
"""Tokenizers: bytes, or a byte-level BPE in a Hugging Face ``tokenizer.json``, as GPT-NeoX's types of the same name.

The ``tokenizers`` library is imported only where a ``tokenizer.json`` is read or trained.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from gaff.errors import InputError, Location, Problem

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"  # the second special token that GPT-NeoX's HFTokenizer looks up


class Tokenizer(Protocol):
    """What the data layer asks of a tokenizer."""

    name: str

    @property
    def vocab_size(self) -> int:
        """Number of token ids, before any padding for tensor parallelism."""
        ...

    @property
    def eod(self) -> int:
        """The token that ends a document."""
        ...

    def encode(self, text: str) -> list[int]: ...


class CharLevel:
    """The UTF-8 bytes of a text; as in GPT-NeoX's type of this name there are 512 ids and 0 ends a document."""

    name = "CharLevelTokenizer"
    vocab_size = 512
    eod = 0

    def encode(self, text: str) -> list[int]:
        """One id per byte."""
        return list(text.encode("utf-8"))


class HuggingFace:
    """A ``tokenizer.json`` (``HFTokenizer``).

    Raises:
        InputError: the file is missing, cannot be read, or has no ``<|endoftext|>``.
    """

    name = "HFTokenizer"

    def __init__(self, path: str | Path) -> None:
        where = Location(str(path))
        if not Path(path).is_file():
            remedy = "set vocab_file to a tokenizer.json"
            raise InputError(Problem("missing-tokenizer", "there is no such tokenizer file", remedy, where))
        try:
            self._tokenizer = _library().Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception with the parser's message
            what = f"this is no tokenizer.json ({error})"
            raise InputError(Problem("bad-tokenizer", what, "set vocab_file to a tokenizer.json", where)) from error
        eod = self._tokenizer.token_to_id(END_OF_TEXT)
        if eod is None:
            raise InputError(Problem("bad-tokenizer", f"the tokenizer has no {END_OF_TEXT}", "add it", where))
        self._eod = int(eod)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return int(self._tokenizer.get_vocab_size())

    @property
    def eod(self) -> int:
        """The id of ``<|endoftext|>``."""
        return self._eod

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def load_tokenizer(tokenizer_type: str, vocab_file: str | None) -> Tokenizer:
    """The tokenizer that a config's ``tokenizer_type`` and ``vocab_file`` name.

    Raises:
        InputError: the type is another one, or the file is unusable.
    """
    if tokenizer_type == CharLevel.name:
        return CharLevel()
    if tokenizer_type == HuggingFace.name:
        return HuggingFace(vocab_file or "")
    what = f"tokenizer_type {tokenizer_type} is not known here"
    raise InputError(Problem("unknown-tokenizer", what, f"use {HuggingFace.name} or {CharLevel.name}"))


def train_bpe(texts: Iterable[str], vocab_size: int, path: str | Path) -> HuggingFace:
    """Train a byte-level BPE on ``texts`` and write it to ``path`` as a ``tokenizer.json``.

    The same texts give the same file.  The vocabulary holds ``<|endoftext|>`` (id 0), ``<|padding|>`` (id 1), the 256
    bytes, and merges up to ``vocab_size``; it stays smaller when the texts do not yield enough merges.
    """
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(_readable_everywhere(tokenizer.to_str()), encoding="utf-8")
    os.replace(temporary, path)
    return HuggingFace(path)


def _readable_everywhere(text: str) -> str:
    """Merges as ``"a b"``: from 0.20 on the library writes pairs, which that of GPT-NeoX's environment cannot read.

    No token of a byte-level BPE has a space in it.
    """
    whole = json.loads(text)
    merges = whole["model"]["merges"]
    whole["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    return json.dumps(whole, ensure_ascii=False, indent=1)


def _library() -> Any:
    # The library warns when a process forks after its threads started; encoding here is not worth threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import tokenizers
    except ImportError as error:
        what = "the Python package tokenizers is not installed"
        raise InputError(Problem("missing-package", what, "pip install 'gaff[bundled]'")) from error
    return tokenizers
