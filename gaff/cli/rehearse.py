# SPDX-License-Identifier: Apache-2.0
"""``gaff rehearse``: the user's own config, end to end, shrunk to this machine and the minutes given."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from gaff.cli.execute import check_everything, execute
from gaff.cli.plan import add_config_arguments, render_plan
from gaff.errors import EXIT_DONE, InputError
from gaff.plan.config import Config
from gaff.trainers.bundled.adapter import BundledTrainer

_ORIGIN = "rehearsal.json"  # in the run directory: what was rehearsed
_CONFIG = "config.yml"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "rehearse",
        help="the same run, end to end, shrunk to this machine; no GPU needed",
        description="Run the config end to end on this machine with the bundled trainer: same schedule shape, ZeRO "
        "stage, precision and, as far as it fits, parallel layout; small model, few iterations, English text.",
    )
    add_config_arguments(parser)
    parser.add_argument("--minutes", type=float, default=3.0, metavar="N", help="how long it may take (3)")
    parser.add_argument("--ranks", type=int, default=2, metavar="N", help="processes to train with (2)")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where it lives (runs/rehearse-<name of the config>)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.plan.checks import check
    from gaff.plan.config import load_config
    from gaff.plan.plan import build_plan

    config = load_config(options.config, options.overrides)
    problems = check(config, files=False)
    if problems:
        raise InputError(problems)
    base = options.run_dir or Path("runs") / f"rehearse-{options.config[0].stem}"
    origin = _origin(config, options)
    root = base if options.run_dir else _own_directory(base, origin)
    trainer = BundledTrainer()
    if not (root / _CONFIG).is_file():
        small = _prepare(config, options, trainer, root, origin)
    else:
        print(f"carrying on the rehearsal in {root}")
        small = load_config([root / _CONFIG])
    check_everything(small, trainer)
    plan = build_plan(small)
    print(render_plan(plan), flush=True)
    execute(small, plan, trainer, root)
    return EXIT_DONE


def _origin(config: Config, options: argparse.Namespace) -> dict[str, object]:
    """What makes two rehearsals the same one."""
    digest = hashlib.sha256(config.to_yaml().encode()).hexdigest()
    return {"config": digest, "minutes": options.minutes, "ranks": options.ranks}


def _own_directory(base: Path, origin: dict[str, object]) -> Path:
    """``base``, or ``base-2`` and so on: the first that is free, or holds this rehearsal unfinished."""
    from gaff.report.summary import summarize

    number = 1
    while True:
        root = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if not (root / _ORIGIN).is_file():
            return root
        same = json.loads((root / _ORIGIN).read_text(encoding="utf-8")) == origin
        iterations = summarize(root)["iterations"]
        if same and (iterations["planned"] is None or iterations["done"] < iterations["planned"]):
            return root
        number += 1


def _prepare(
    config: Config, options: argparse.Namespace, trainer: BundledTrainer, root: Path, origin: dict[str, object]
) -> Config:
    """Shrink the config and say what was shrunk."""
    from gaff.files import make_directory_durably, write_json_durably
    from gaff.supervisor.rehearsal import prepare_rehearsal

    make_directory_durably(root)
    write_json_durably(root / _ORIGIN, origin)
    rehearsal = prepare_rehearsal(
        config,
        trainer,
        root.absolute(),
        minutes=options.minutes,
        ranks=options.ranks,
        say=lambda text: print(text, flush=True),
    )
    print(f"rehearsing {', '.join(str(path) for path in options.config)}; what was shrunk:")
    for sentence in rehearsal.shrunk:
        print(f"  {sentence}")
    return rehearsal.config
