# SPDX-License-Identifier: Apache-2.0
"""The table of a comparison, or its two parts: one row for each setting, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gaff.report.compare.columns import Cell, Column, cell, columns
from gaff.report.compare.comparison import Comparison
from gaff.report.compare.configs import Setting
from gaff.report.compare.figures import Figures

_MOST_COLUMNS = 9
_MATHS = ("<", ">", "-", r"\pm", r"\ge", r"\Delta", r"\times", r"^\dagger", r"^\ddagger", r"^\S")

# Of LaTeX's special characters, and of ours that its older fonts lack.
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    **dict(zip("<>−±≥Δ×†‡§", (f"${sign}$" for sign in _MATHS), strict=True)),
    "—": "---",
    "–": "--",
    "“": "``",
    "”": "''",
    '"': "''",
    "`": r"\textasciigrave{}",
    "\n": " ",
}

_CSV: dict[str, Callable[[Figures], object]] = {
    "reset_every": lambda f: f.reset_every,
    "resets": lambda f: f.resets,
    "iterations": lambda f: f.iterations,
    "planned_iterations": lambda f: f.planned,
    "final_loss": lambda f: f.final and f.final.mean,
    "final_loss_sd": lambda f: f.final and f.final.sd,
    "final_loss_count": lambda f: f.final and f.final.count,
    "final_loss_first_iteration": lambda f: f.final and f.final.first,
    "final_loss_last_iteration": lambda f: f.final and f.final.last,
    "difference": lambda f: f.difference and f.difference.value,
    "difference_until_iteration": lambda f: f.difference and f.difference.until,
    "lowest_loss": lambda f: f.lowest,
    "lowest_loss_iteration": lambda f: f.lowest_iteration,
    "validation_loss": lambda f: f.validation,
    "validation_iteration": lambda f: f.validation_iteration,
    "recovered_resets": lambda f: f.back.recovered,
    "counted_resets": lambda f: f.back.of,
    "iterations_to_recover": lambda f: f.back.value,
    "iterations_to_recover_at_least": lambda f: f.back.at_least,
    "half_life": lambda f: f.half_life,
    "spike": lambda f: f.spike,
    "area": lambda f: f.area,
    "share_recovering": lambda f: f.share,
    "training_s": lambda f: f.training_s,
    "outside_s": lambda f: f.outside_s,
    "launches": lambda f: f.launches,
    "restarts": lambda f: f.restarts,
}


@dataclass(frozen=True)
class Table:
    """What is written: a heading for each column, and for each row a name, how many runs it has, and its cells.

    Attributes:
        has_repeats: whether any row stands for several runs; only then is their number shown.
    """

    columns: tuple[Column, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]

    @property
    def has_repeats(self) -> bool:
        return max(self.counts) > 1

    @property
    def headings(self) -> list[str]:
        return ["run", *(["n"] if self.has_repeats else []), *(column.heading for column in self.columns)]

    def rows(self) -> list[list[str]]:
        """As text, below :attr:`headings`."""
        return [
            [name, *([str(count)] if self.has_repeats else []), *(one.text for one in cells)]
            for name, count, cells in zip(self.names, self.counts, self.cells, strict=True)
        ]


def tables_of(comparison: Comparison, rows: Sequence[Setting] | None = None) -> list[Table]:
    """One row for each setting, or for each of ``rows``.

    One table where that is narrow enough for a page, else two of the same rows: what came out; recoveries and cost.
    """
    settings = comparison.settings if rows is None else rows
    chosen = columns(comparison)
    parts = [[c for c in chosen if c.is_outcome], [c for c in chosen if not c.is_outcome]]
    return [
        Table(
            columns=tuple(part),
            names=tuple(setting.name for setting in settings),
            counts=tuple(len(setting.runs) for setting in settings),
            cells=tuple(tuple(cell(column, comparison.of(setting)) for column in part) for setting in settings),
        )
        for part in ([chosen] if len(chosen) <= _MOST_COLUMNS else parts)
    ]


def each_run(comparison: Comparison) -> list[Setting]:
    """Every run by itself."""
    return [Setting(run.name, (place,)) for place, run in enumerate(comparison.runs)]


def markdown(tables: Sequence[Table], *, escape: bool = True) -> str:
    """Padded, so that it reads well as it stands; not escaped, it is for reading alone."""
    return "\n".join(_markdown(table, escape) for table in tables)


def _markdown(table: Table, escape: bool) -> str:
    rows = [[_in_markdown(text) if escape else text for text in row] for row in (table.headings, *table.rows())]
    widths = [max(3, *(len(row[place]) for row in rows)) for place in range(len(rows[0]))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in (padded[0], rule, *padded[1:]))


def _in_markdown(text: str) -> str:
    escaped = "".join(f"\\{sign}" if sign in "\\|*_`<[" else sign for sign in text)
    return " ".join(escaped.split())


def latex(tables: Sequence[Table], caption: str, notes: Sequence[str]) -> str:
    r"""A ``table`` for a paper; it needs ``\usepackage{booktabs}`` and nothing else."""
    told = [r"  \par\smallskip", r"  {\scriptsize " + " ".join(map(in_latex, notes)) + r"\par}"] if notes else []
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{in_latex(caption)}}}",
        r"  \label{tab:gaff-compare}",
        r"  \footnotesize\setlength{\tabcolsep}{3pt}",
        "\n  \\par\\medskip\n".join(_tabular(table) for table in tables),
        *told,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(table: Table) -> str:
    lines = [
        rf"  \begin{{tabular}}{{l{'r' * (len(table.headings) - 1)}}}",
        r"    \toprule",
        f"    {_latex_row(table.headings)}",
        r"    \midrule",
        *(f"    {_latex_row(row)}" for row in table.rows()),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    return "\n".join(lines)


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(in_latex(text) for text in texts) + r" \\"


def in_latex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def csv_text(comparison: Comparison) -> str:
    """One row for each run, unrounded: losses in nats, times in seconds; what is not known is empty."""
    setting_of = {place: setting.name for setting in comparison.settings for place in setting.runs}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", "setting", "path", *_CSV])
    for place, (run, numbers) in enumerate(zip(comparison.runs, comparison.figures, strict=True)):
        values = (value(numbers) for value in _CSV.values())
        told = ("" if value is None else value for value in values)
        writer.writerow([run.name, setting_of[place], str(run.path), *told])
    return out.getvalue()
