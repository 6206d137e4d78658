# SPDX-License-Identifier: Apache-2.0
"""The table as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path
from statistics import mean, stdev

import pytest

from gaff.report.compare.comparison import Comparison, compare
from gaff.report.compare.notes import caption, notes
from gaff.report.compare.runs import read_runs
from gaff.report.compare.table import csv_text, in_latex, latex, markdown, tables_of
from tests.report.compare.compared_runs import write_run
from tests.report.naive import naive_curve

HOSTILE = r"50%_of|k & $x^2 ~\{y}# *a* `b` <c> “d”"


def compared(*paths: Path, names: tuple[str, ...] = ()) -> Comparison:
    return compare(read_runs(paths, names))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    root = tmp_path_factory.mktemp("runs")
    paths = [write_run(root / name, k=k, seed=3) for name, k in (("base", None), ("k50", 50), ("k100", 100))]
    return compared(*paths)


def cells(text: str) -> list[dict[str, str]]:
    """The rows of all tables of a Markdown text, told by the headings."""
    found = []
    for block in text.strip().split("\n\n"):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        assert all(len(row) == len(rows[0]) for row in rows)
        assert all(re.fullmatch(":?-+:?", rule) for rule in rows[1])
        found += [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    return found


def test_markdown_has_the_numbers_of_the_logs(three: Comparison) -> None:
    found = cells(markdown(tables_of(three)))
    assert [row["run"] for row in found] == ["base", "k50", "k100"] * 2
    finals = [mean(loss for _, loss in naive_curve(run.path)[-20:]) for run in three.runs]
    assert [row["final loss"].rstrip("†‡") for row in found[:3]] == [f"{final:.3f}" for final in finals]
    assert [row["Δ base"] for row in found[:3]] == ["—", *(f"{final - finals[0]:+.3f}" for final in finals[1:])]
    assert [(row["k"], row["resets"]) for row in found[:3]] == [("never", "0"), ("50", "7"), ("100", "3")]
    assert [row["launches"] for row in found[3:]] == ["1", "8", "4"]
    assert found[3]["spike"] == "—"


def test_columns_that_no_run_has_are_left_out(three: Comparison, tmp_path: Path) -> None:
    assert not {"valid.", "restarts", "n"} & set(cells(markdown(tables_of(three)))[0])
    alone = compared(*(write_run(tmp_path / f"b{seed}", k=None, seed=seed, iterations=100 + seed) for seed in (1, 2)))
    (table,) = tables_of(alone)  # narrow enough
    assert table.headings[:3] == ["run", "iterations", "final loss"]
    assert not {"k", "resets", "back after", "spike"} & set(table.headings)
    with open(tmp_path / "b1" / "journal.jsonl", "a") as journal:
        journal.write('{"event": "restart_planned", "number": 1, "of": 10}\n')
    log = tmp_path / "b2" / "segments" / "0001" / "attempt-1.log"
    log.write_text(
        log.read_text() + " validation loss at iteration 100 | lm_loss value: 2.500000E+00 | lm_loss_ppl value: 1\n"
    )
    again = compared(tmp_path / "b1", tmp_path / "b2")
    rows = cells(markdown(tables_of(again)))
    assert [row["restarts"] for row in rows if "restarts" in row] == ["1", "0"]


def test_seeds_are_one_row_with_mean_and_standard_deviation(tmp_path: Path) -> None:
    paths = [write_run(tmp_path / f"k50-s{seed}", k=50, seed=seed) for seed in (1, 2, 3)]
    paths.append(write_run(tmp_path / "base", k=None, seed=1))
    found = compared(*paths)
    rows = cells(markdown(tables_of(found)))
    finals = [mean(loss for _, loss in naive_curve(path)[-20:]) for path in paths]
    assert (rows[0]["run"], rows[0]["n"], rows[1]["n"]) == ("k50", "3", "1")
    assert rows[0]["final loss"].rstrip("‡") == f"{mean(finals[:3]):.3f} ± {stdev(finals[:3]):.3f}"
    deltas = [final - finals[3] for final in finals[:3]]
    assert rows[0]["Δ base"] == f"{mean(deltas):+.3f} ± {stdev(deltas):.3f}"
    assert rows[0]["iterations"] == "400"
    assert "standard deviation over the runs" in caption(found)


def test_a_median_that_is_not_known_is_told_as_a_bound(tmp_path: Path) -> None:
    found = compared(write_run(tmp_path / "a", k=50, heals=False), write_run(tmp_path / "b", k=None))
    assert found.figures[0].back.value is None
    rows = cells(markdown(tables_of(found)))
    assert rows[2]["back after"] == "≥ 50"


def test_names_do_not_break_markdown_or_latex(three: Comparison) -> None:
    hostile = compared(*(run.path for run in three.runs), names=(HOSTILE, "k_50", "a\\b"))
    rows = cells(markdown(tables_of(hostile)))
    assert len(rows) == 6
    assert rows[1]["run"] == r"k\_50"
    text = latex(tables_of(hostile), caption(hostile), notes(hostile))
    assert in_latex("k_50 & 5% ±1 −2 ≥3 a~b^c {d} #1 $ — Δ") == (
        r"k\_50 \& 5\% $\pm$1 $-$2 $\ge$3 a\textasciitilde{}b\textasciicircum{}c \{d\} \#1 \$ --- $\Delta$"
    )
    assert in_latex("a\\b") == r"a\textbackslash{}b"
    bare = re.sub(r"\\[a-zA-Z]+(\{\})?|\\[&%$#_{}]", "", text)
    assert not re.search(r"[~^|<>]", re.sub(r"\$[^$]*\$", "", bare))
    assert bare.count("$") % 2 == 0


def test_latex_is_a_table_with_booktabs(three: Comparison) -> None:
    text = latex(tables_of(three), "A caption.", ["A note.", "Another one."])
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(f"\\{rule}") == 2
    for body in re.findall(r"\\begin\{tabular\}\{(l r*|lr*)\}(.*?)\\end", text, re.S):
        rows = [line for line in body[1].splitlines() if line.endswith(r"\\")]
        assert len(rows) == 4
        assert {row.count(" & ") + 1 for row in rows} == {len(body[0])}


@pytest.mark.exhaustive
@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles_and_fits_a_page(three: Comparison, tmp_path: Path) -> None:
    hostile = compared(*(run.path for run in three.runs), names=("base", HOSTILE[:12], "a\\b"))
    text = latex(tables_of(hostile), caption(hostile), notes(hostile))
    document = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document.replace("\n\\begin{table}", "\n\\begin{table}[h]"))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "paper.log").read_text(errors="replace")


def test_csv_has_a_row_for_each_run_unrounded(three: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(three))))
    assert [row["name"] for row in rows] == ["base", "k50", "k100"]
    for row, figures in zip(rows, three.figures, strict=True):
        assert figures.final is not None
        assert float(row["final_loss"]) == figures.final.mean
        assert row["reset_every"] == ("" if figures.reset_every is None else str(figures.reset_every))
        assert row["spike"] == ("" if figures.spike is None else str(figures.spike))
    assert rows[0]["difference"] == ""
