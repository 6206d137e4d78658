# SPDX-License-Identifier: Apache-2.0
"""The parts of the page that are words: health events, config, environment and provenance.  Escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gaff.report import format as fmt
from gaff.report.page.blocks import section, shortened
from gaff.report.page.reported import HealthEvent, ReportedRun, Row

MAX_EVENTS = 500
MAX_CONFIG = 100_000

_KINDS = {"trouble": "trouble", "care": "looked after", "note": "note"}


def health(events: Sequence[HealthEvent]) -> str:
    if not events:
        return ""
    left_out = len(events) - MAX_EVENTS
    some = f"<p>The last {MAX_EVENTS:,} of {len(events):,}.</p>" if left_out > 0 else ""
    rows = "\n".join(_event(event) for event in events[-MAX_EVENTS:])
    head = '<tr><th scope="col">time (UTC)</th><th scope="col">kind</th><th scope="col">what</th></tr>'
    box = '<div class="scroll" role="region" aria-label="Health events" tabindex="0">'
    table = f'{box}<table class="words health"><thead>{head}</thead><tbody>\n{rows}\n</tbody></table></div>'
    return section("health", "Health", some, table)


def _event(event: HealthEvent) -> str:
    time = "—" if event.time is None else event.time.strftime("%Y-%m-%d %H:%M:%S")
    return (
        f'<tr class="{event.kind}"><td>{time}</td><td>{_KINDS[event.kind]}</td>'
        f"<td><b>{escape(event.what)}</b> {escape(shortened(event.text))}</td></tr>"
    )


def config(run: ReportedRun) -> str:
    if run.config is None:
        return ""
    text = shortened(run.config, MAX_CONFIG)
    whole = f"<details><summary>The effective config ({fmt.size(len(run.config.encode()))})</summary>"
    rows = "\n".join(
        f"<tr><td><code>{escape(c.key)}</code></td><td>{escape(shortened(c.given)) or '—'}</td>"
        f"<td>{escape(shortened(c.written))}</td><td>{escape(c.why)}</td></tr>"
        for c in run.changes
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("key", "given", "written", "why"))
    changed = (
        f"<details><summary>What GAFF changed in it ({fmt.count(len(run.changes), 'key')})</summary>"
        '<div class="scroll" role="region" aria-label="What GAFF changed" tabindex="0">'
        f'<table class="words"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div></details>'
    )
    return section("config", "Config", f"{whole}<pre>{escape(text)}</pre></details>", changed if rows else "")


def facts(name: str, title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    inner = "\n".join(f"<dt>{escape(r.label)}</dt><dd>{escape(shortened(r.value, 4000))}</dd>" for r in rows)
    return section(name, title, f'<dl class="facts">\n{inner}\n</dl>')
