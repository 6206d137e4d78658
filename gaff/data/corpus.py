# SPDX-License-Identifier: Apache-2.0
"""Real English text that any machine with Python has: the language reference, and the docstrings of the library.

Nothing is downloaded.  The order of documents is fixed; their content is that of the installed Python, so two
machines with the same Python version have the same corpus.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import sysconfig
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from gaff.data.indexed_dataset import idx_path, token_dtype, write_dataset
from gaff.data.tokenizers import Tokenizer

_MIN_CHARACTERS = 200  # shorter documents are mostly signatures
_DEFAULT_CHARACTERS = 4_000_000
_TEXT_FILES = ("LICENSE.txt", "LICENSE", "README.txt", "README")
# Tests, tables and programs: code rather than prose, or not in every distribution.
_SKIPPED = frozenset(
    {
        "test",
        "tests",
        "idlelib",
        "idle_test",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "encodings",
        "lib2to3",
        "pydoc_data",
        "turtledemo",
        "ensurepip",
        "config",
        "lib-dynload",
        "_pyrepl",
    }
)


def english_text() -> Iterator[str]:
    """Documents of real English, in a fixed order: language reference, docstrings per module, licence texts.

    A part that this Python does not have is left out.
    """
    for text in chain(_language_reference(), _library_docstrings(), _text_files()):
        if len(text) >= _MIN_CHARACTERS:
            yield text


def limited_text(characters: int = _DEFAULT_CHARACTERS) -> Iterator[str]:
    """The first documents of :func:`english_text` up to about so many characters."""
    for text in english_text():
        if characters <= 0:
            return
        characters -= len(text)
        yield text


def write_corpus(
    directory: str | Path, tokenizer: Tokenizer, *, name: str = "english", characters: int = _DEFAULT_CHARACTERS
) -> Path:
    """Write the corpus as a ``.bin/.idx`` pair below ``directory`` and return its data path (without suffix).

    Each document ends with the tokenizer's end-of-document token.  A pair that is already there is taken as it is: it
    is renamed into place only when whole, and its name tells tokenizer and vocabulary.
    """
    prefix = Path(directory) / f"{name}_{tokenizer.name}_{tokenizer.vocab_size}_text_document"
    if not idx_path(prefix).is_file():
        documents = ([*tokenizer.encode(text), tokenizer.eod] for text in limited_text(characters))
        write_dataset(prefix, documents, token_dtype(tokenizer.vocab_size))
    return prefix


def _language_reference() -> Iterator[str]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except (ImportError, AttributeError):  # some distributions leave it out
        return
    for name in sorted(topics):
        yield topics[name].strip()


def _library_docstrings() -> Iterator[str]:
    library = sysconfig.get_path("stdlib")
    if not library:
        return
    for path in sorted(_sources(Path(library))):
        yield _docstrings(path)


def _sources(root: Path) -> Iterator[Path]:
    """The library's Python files.  Directories that are skipped, such as installed packages, are not even listed."""
    for folder, directories, names in os.walk(root):
        directories[:] = (name for name in directories if name not in _SKIPPED)
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _docstrings(path: Path) -> str:
    """All docstrings of one source file, in the order of the source; empty when it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return ""
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                line = getattr(node, "lineno", 0)
                texts.append((line, inspect.cleandoc(text)))
    return "\n\n".join(text for _, text in sorted(texts, key=lambda item: item[0]))


def _text_files() -> Iterator[str]:
    library = sysconfig.get_path("stdlib")
    for name in _TEXT_FILES if library else ():
        try:
            yield (Path(library) / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
