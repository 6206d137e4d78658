# SPDX-License-Identifier: Apache-2.0
"""The fault bench: whole runs, disturbed at a chosen moment, that must end as if nothing had happened.

    python -m tests.faults [--jobs N] [--only PATTERN] [--write docs/faults.md] [--keep DIR]

prints the table of all cases and exits with 1 when one failed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.bench import Result, run_case
from tests.faults.cases import CASES, Case
from tests.faults.grounds import Grounds
from tests.faults.page import page
from tests.faults.table import table, totals, verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The fault bench.")
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time (2)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name has this regular expression")
    parser.add_argument("--list", action="store_true", help="name the cases and do nothing")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the page to write the table into")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where failed cases stay to be looked at")
    options = parser.parse_args()
    chosen = [case for case in CASES if re.search(options.only, case.name)]
    if options.list:
        print("\n".join(case.name for case in chosen))
        return 0
    with tempfile.TemporaryDirectory(prefix="gaff-faults-") as temporary:
        place = options.keep or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        results = _run(chosen, Grounds(Path(temporary) / "grounds"), place, options.jobs)
    print(f"{table(results)}\n\n{totals(results)}")
    if options.write:
        options.write.write_text(page(results), encoding="utf-8")
    return 1 if any(result.wrong for result in results) else 0


def _run(cases: list[Case], grounds: Grounds, place: Path, jobs: int) -> list[Result]:
    """All of them, in their order; a line for each on standard error when it is done."""
    grounds.place.mkdir(parents=True)
    grounds.prepare({case.trainer for case in cases})

    def run(case: Case) -> Result:
        result = run_case(case, grounds, place / f"case-{CASES.index(case) + 1}")
        print(f"{verdict(result)}: {case.name}", file=sys.stderr, flush=True)
        return result

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(run, cases))


if __name__ == "__main__":
    sys.exit(main())
