# SPDX-License-Identifier: Apache-2.0
"""The table of ``docs/faults.md``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tests.faults.bench import Result

_HEAD = "| # | trainer | fault | moment | commands ended with | restarts | set aside | GAFF says | verdict |"
_RULE = "|---|---|---|---|---|---|---|---|---|"


def table(results: Iterable[Result]) -> str:
    """One row a case, in their order."""
    return "\n".join([_HEAD, _RULE, *(row(number, result) for number, result in enumerate(results, start=1))])


def row(number: int, result: Result) -> str:
    case = result.case
    when = f"{case.moment.name}: kill -9; then, before the next command" if case.fault.between else case.moment.name
    cells = (
        str(number),
        case.trainer,
        case.fault.name,
        when,
        ", ".join("kill -9" if code == -9 else str(code) for code in result.ends),
        str(result.restarts or ""),
        ", ".join(map(str, result.set_aside)),
        result.sentence,
        verdict(result),
    )
    return "| " + " | ".join(re.sub(r"\|", r"\\|", cell) for cell in cells) + " |"


def verdict(result: Result) -> str:
    if result.skipped:
        return f"skipped: {result.skipped}"
    return "FAILED: " + "; ".join(result.wrong) if result.wrong else "identical"


def totals(results: Sequence[Result]) -> str:
    """How many there are, and how they went."""
    failed = sum(bool(r.wrong) for r in results)
    skipped = sum(bool(r.skipped) for r in results)
    kills = sum(r.case.fault.kill_9 or r.case.fault.between for r in results)
    passed = len(results) - failed - skipped
    ended = f"{passed} identical, {failed} failed, {skipped} skipped"
    return f"{len(results)} cases, {kills} of them with a `kill -9`: {ended}"
