# SPDX-License-Identifier: Apache-2.0
"""``gaff run`` with the quick trainer of ``tests/supervisor/fake_trainer.py`` in the place of a real one.

    python -m tests.faults.stand_in TEMPLATE MODES_JSON --config FILE --run-dir DIR [-o KEY=VALUE] …

TEMPLATE is the tag that it "trains"; MODES_JSON maps the stop of a segment to how its first launch goes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gaff.cli.execute import execute, held
from gaff.errors import GaffError
from gaff.plan.config import load_config
from gaff.plan.plan import build_plan
from tests.supervisor.fake_trainer import FakeTrainer

ITERATION_S = 0.03


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("template", type=Path)
    parser.add_argument("modes", type=json.loads)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    config = load_config([options.config], options.overrides)
    plan = build_plan(config, {})
    modes = {int(stop): mode for stop, mode in options.modes.items()}
    trainer = FakeTrainer(options.template, plan.segments[-1].stop, modes, ITERATION_S)
    try:
        with held(options.run_dir) as lock:
            execute(config, plan, trainer, options.run_dir, lock)
    except GaffError as error:
        print("\n".join(f"gaff: {problem}" for problem in error.problems), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
