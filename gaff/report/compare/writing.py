# SPDX-License-Identifier: Apache-2.0
"""The files of a comparison: the page, and beside it the table as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from pathlib import Path

from gaff.files import write_durably
from gaff.report.compare.comparison import Comparison, to_json
from gaff.report.compare.notes import caption, notes
from gaff.report.compare.page import page
from gaff.report.compare.table import csv_text, latex, markdown, tables_of


def text_of(comparison: Comparison) -> str:
    """The table and its notes, for a terminal."""
    told = "".join(f"{note}\n" for note in (caption(comparison), *notes(comparison)))
    return f"{markdown(tables_of(comparison), escape=False)}\n{told}"


def json_of(comparison: Comparison) -> str:
    return json.dumps(to_json(comparison, notes(comparison)), indent=2, allow_nan=False) + "\n"


def write_files(comparison: Comparison, place: Path, title: str) -> list[Path]:
    """Write all of it: the page at ``place``, the others beside it under its name.  Returns the files, the page first.

    Raises:
        OSError: a file cannot be written.
    """
    tables, told, about = tables_of(comparison), notes(comparison), caption(comparison)
    below = "".join(f"\n{note}\n" for note in (about, *told))
    texts = {
        place: page(comparison, title),
        place.with_suffix(".md"): markdown(tables) + below,
        place.with_suffix(".tex"): latex(tables, about, told),
        place.with_suffix(".csv"): csv_text(comparison),
        place.with_suffix(".json"): json_of(comparison),
    }
    for path, text in texts.items():
        write_durably(path, text.encode())
    return list(texts)
