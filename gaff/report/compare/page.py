# SPDX-License-Identifier: Apache-2.0
"""``compare.html``: one file, as the report's page is.  All text that comes from a run is escaped here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from gaff.report.compare.chart_data import chart_data, style_of
from gaff.report.compare.columns import Cell
from gaff.report.compare.comparison import Comparison
from gaff.report.compare.configs import Setting
from gaff.report.compare.notes import caption, notes
from gaff.report.compare.table import Table, each_run, latex, markdown, tables_of
from gaff.report.page.blocks import chart, choice, header, section, shortened
from gaff.report.page.build import document
from gaff.report.page.provenance import reporter

_AXES = {"iteration": "iterations", "tokens": "tokens", "hours": "time"}
_MAX_VALUE = 200  # characters of a config's value
_WAYS = "Arrow keys move the cursor, plus and minus zoom, Escape zooms out."


def page(comparison: Comparison, title: str) -> str:
    """The page of a comparison in which at least one run has a logged loss."""
    data = chart_data(comparison)
    parts = [
        '<main id="top">',
        header("GAFF comparison of runs", title, shortened(", ".join(run.name for run in comparison.runs))),
        _differing(comparison),
        _table(comparison),
        _loss(comparison, data),
        _recoveries(comparison, data),
        _by_k(data),
        _paper(comparison),
        _sources(comparison),
        f"<footer><p>Made by {escape(reporter())}.</p></footer>",
        "</main>",
    ]
    return document(title, "\n".join(part for part in parts if part), data, "compare.js", ("compare.css",))


# --- tables ---


def _swatch(comparison: Comparison, setting: int) -> str:
    colour, is_dashed = style_of(comparison, setting)
    return f'<i class="swatch{" dashed" if is_dashed else ""}" style="--key:var({colour})"></i>'


def _box(label: str, table: str) -> str:
    return f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">{table}</div>'


def _differing(comparison: Comparison) -> str:
    unread = [run.name for run in comparison.runs if run.config is None]
    about = f"<p>The config of {escape(', '.join(unread))} cannot be read.</p>" if unread else ""
    if not comparison.differing:
        same = "" if len(unread) > len(comparison.runs) - 2 else "<p>All configs say the same.</p>"
        return section("config", "What differs", same, about) if same or about else ""
    heads = "".join(
        f'<th scope="col">{_swatch(comparison, n)}{escape(setting.name)}</th>'
        for n, setting in enumerate(comparison.settings)
    )
    rows = "\n".join(
        f"<tr><td><code>{escape(key)}</code></td>"
        + "".join(f"<td>{escape(_each(values, setting))}</td>" for setting in comparison.settings)
        + "</tr>"
        for key, values in comparison.differing.items()
    )
    table = (
        f'<table class="words"><thead><tr><th scope="col">key</th>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    )
    hint = (
        '<p class="hint">Keys of the configs whose values are not the same in all runs; directories are left out.</p>'
    )
    return section("config", "What differs", hint, _box("What differs between the configs", table), about)


def _each(values: Sequence[str], setting: Setting) -> str:
    """The value of a setting's runs; of their seeds all."""
    return shortened(", ".join(dict.fromkeys(values[place] for place in setting.runs)), _MAX_VALUE)


def _table(comparison: Comparison) -> str:
    tables = tables_of(comparison)
    told = "".join(f"<p>{escape(note)}</p>" for note in (caption(comparison), *notes(comparison)))
    hint = '<p class="hint">Losses in nats. Click a heading to sort; a heading says what it means when pointed at.</p>'
    parts = [hint, *_boxes(comparison, "The runs in numbers", tables), f'<div class="notes">{told}</div>']
    if tables[0].has_repeats:
        inner = "".join(_boxes(comparison, "Each run in numbers", tables_of(comparison, each_run(comparison))))
        parts.append(f"<details><summary>Each run by itself</summary>{inner}</details>")
    return section("numbers", "In numbers", *parts)


def _boxes(comparison: Comparison, label: str, tables: Sequence[Table]) -> list[str]:
    names = ["outcome", "recoveries and cost"] if len(tables) > 1 else [""]
    return [
        _box(f"{label}: {name}" if name else label, _html(comparison, table))
        for name, table in zip(names, tables, strict=True)
    ]


def _html(comparison: Comparison, table: Table) -> str:
    """A table of settings or, where it has other rows, of runs."""
    setting_of = {place: n for n, one in enumerate(comparison.settings) for place in one.runs}
    is_by_run = len(table.names) != len(comparison.settings)
    count = [("runs", "how many differ in their seeds alone")] if table.has_repeats else []
    head = "".join(
        f'<th scope="col" aria-sort="none" title="{escape(meaning)}"><button type="button">{escape(heading)}'
        "</button></th>"
        for heading, meaning in [("run", ""), *count, *((c.heading, c.meaning) for c in table.columns)]
    )
    rows = []
    for place, (name, runs, cells) in enumerate(zip(table.names, table.counts, table.cells, strict=True)):
        swatch = _swatch(comparison, setting_of[place] if is_by_run else place)
        first = f'<td data-v="{place}">{swatch}{escape(name)}</td>'
        number = f'<td data-v="{runs}">{runs}</td>' if count else ""
        rows.append(f"<tr>{first}{number}{''.join(map(_cell, cells))}</tr>")
    body = "\n".join(rows)
    return f'<table class="sortable runs"><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>'


def _cell(cell: Cell) -> str:
    value = "" if cell.value is None else f' data-v="{cell.value:.10g}"'
    return f"<td{value}>{escape(cell.text)}</td>"


# --- charts ---


def _loss(comparison: Comparison, data: Mapping[str, Any]) -> str:
    axes = [axis["name"] for axis in data["axes"]]
    first = sorted(axes, key=lambda name: name != comparison.align)
    width = data["stretch"]
    means = [("means", f"means of {width:,} iterations")] if width else []
    tools = (
        '<div class="tools">'
        + (choice("align", "Laid along", [(name, _AXES[name]) for name in first]) if len(axes) > 1 else "")
        + choice("view", "Which line", [*means, ("smooth", "smoothed"), ("loss", "as logged")])
        + choice("loss-scale", "Scale of the loss", [("linear", "linear"), ("log", "log")])
        + '<button type="button" id="zoom-out" hidden>whole runs</button></div>'
    )
    told = "; ".join(_in_words(comparison))
    hint = "Drag to zoom, double click to zoom out. Ticks at the bottom are resets. "
    thinned = [run for run in data["runs"] if run["shown"] < run["of"]]
    points = "All logged losses are drawn." if not thinned else "The lowest and the highest of each stretch are drawn."
    curves = chart(
        "loss-chart", f"Training losses of the runs. Final losses: {told}. {_WAYS}", 400, hint + points, keys=True
    )
    parts = [tools, curves]
    if comparison.baseline is not None and any(data["difference"].values()):
        name = escape(comparison.baseline.name)
        about = f"Loss of each run minus that of {comparison.baseline.name}, with the same cursor and zoom."
        below = "Below 0 the run is better. Each line is the mean over the same stretch of both runs."
        parts += [f"<h3>Loss minus that of {name}</h3>", chart("difference-chart", about, 220, below)]
    return section("loss", "Loss", *parts)


def _in_words(comparison: Comparison) -> Iterator[str]:
    for run, numbers in zip(comparison.runs, comparison.figures, strict=True):
        yield f"{run.name} {numbers.final.mean:.3f}" if numbers.final else f"{run.name} none"


def _smalls(prefix: str, data: Mapping[str, Any], names: Sequence[str], about: str) -> str:
    titles = {measure["name"]: (measure["title"], measure["unit"]) for measure in data["measures"]}
    inner = "".join(
        f'<div class="small"><h3>{escape(titles[name][0])}</h3>'
        + chart(f"{prefix}-{name}", f"{titles[name][0]}, {titles[name][1]}, {about}", 190)
        + "</div>"
        for name in names
    )
    return f'<div class="smalls">{inner}</div>'


def _recoveries(comparison: Comparison, data: Mapping[str, Any]) -> str:
    known = [m["name"] for m in data["measures"] if any(v is not None for line in m["lines"] for v in line["value"])]
    if not known:
        return ""
    hint = "A line for each run. Hollow points: the loss had not come back by the next reset."
    return section(
        "recoveries", "Recovery by reset", f'<p class="hint">{hint}</p>', _smalls("measure", data, known, "by reset")
    )


def _by_k(data: Mapping[str, Any]) -> str:
    known = [m["name"] for m in data["measures"] if len({point["k"] for point in m["by_k"]}) > 1]
    if not known:
        return ""
    hint = (
        "The median over the resets of each run. Hollow points: half of the resets or more were not recovered from, and"
        " the median is above the point."
    )
    return section("by-k", "Recovery by k", f'<p class="hint">{hint}</p>', _smalls("by-k", data, known, "by k"))


# --- for a paper ---


def _paper(comparison: Comparison) -> str:
    tables = tables_of(comparison)
    told = latex(tables, caption(comparison), notes(comparison))
    texts = [("Markdown", markdown(tables)), ("LaTeX", told)]
    inner = "".join(f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>\n" for name, text in texts)
    return section("paper", "The table for a paper", inner)


def _sources(comparison: Comparison) -> str:
    rows = "\n".join(
        f"<dt>{escape(run.name)}</dt><dd>{escape(str(run.path.resolve()))}</dd>" for run in comparison.runs
    )
    return section("sources", "Run directories", f'<dl class="facts">\n{rows}\n</dl>')
