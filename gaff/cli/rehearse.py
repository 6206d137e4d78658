# SPDX-License-Identifier: Apache-2.0
"""``gaff rehearse``: the user's own config, end to end, shrunk to this machine and the minutes given."""

from __future__ import annotations

import argparse
import hashlib
import json
from enum import Enum
from pathlib import Path
from typing import Any

from gaff.cli.arguments import minutes, whole_number
from gaff.cli.execute import check_everything, execute, held
from gaff.cli.output import say
from gaff.cli.plan import add_config_arguments, render_plan
from gaff.errors import EXIT_DONE, InputError, Location, Problem
from gaff.plan.config import Config
from gaff.trainers.bundled.adapter import too_many_ranks
from gaff.trainers.contract import Trainer

_ORIGIN = "rehearsal.json"  # in the run directory: what was rehearsed
_CONFIG = "config.yml"
_MINUTES = {"bundled": 3.0, "neox": 8.0}  # by trainer
_NAMES = {"bundled": "the bundled trainer", "neox": "GPT-NeoX on the CPU"}
_BEGUN = (_CONFIG, "run.json", "journal.jsonl")  # one of them is there: iterations may have been trained


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "rehearse",
        help="the same run, end to end, shrunk to this machine; no GPU needed",
        description="Run the config end to end on this machine's CPU, with GPT-NeoX itself where there is one and else "
        "with the bundled trainer: same schedule shape, ZeRO stage, precision and, as far as it fits, parallel layout; "
        "small model, few iterations, English text.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--trainer",
        choices=("auto", "neox", "bundled"),
        default="auto",
        help="who trains; auto: GPT-NeoX where it is named or installed, else the bundled trainer",
    )
    parser.add_argument(
        "--neox-dir", type=Path, metavar="DIR", help="the GPT-NeoX checkout; else gaff: neox_dir, GPT_NEOX_DIR"
    )
    parser.add_argument(
        "--minutes", type=minutes, metavar="N", help="how long it may take (3; with GPT-NeoX, which starts slowly, 8)"
    )
    parser.add_argument("--ranks", type=whole_number(1), default=2, metavar="N", help="processes to train with (2)")
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="where it lives (runs/rehearse-<name of the config>)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.plan.checks import check
    from gaff.plan.config import load_config
    from gaff.plan.plan import build_plan
    from gaff.supervisor.rehearsal import check_rehearsal
    from gaff.supervisor.run_directory import check_root
    from gaff.trainers.select import select_for_rehearsal

    config = load_config(options.config, options.overrides)
    problems = check(config, files=False)
    if problems:
        raise InputError(problems)
    trainer = select_for_rehearsal(config, options.trainer, options.neox_dir)
    if options.minutes is None:
        options.minutes = _MINUTES[trainer.name]
    crowd = too_many_ranks(options.ranks)
    if crowd:
        raise InputError(Problem("too-many-ranks", crowd, "give fewer with --ranks"))
    origin = _origin(config, options, trainer)
    root = options.run_dir or _own_directory(Path("runs") / f"rehearse-{options.config[0].stem}", origin)
    check_root(root)
    _refuse_other(root, origin)
    check_rehearsal(config, trainer, root.absolute(), options.ranks)
    with held(root) as lock:
        _refuse_other(root, origin)  # nobody can change it now
        if (root / _CONFIG).is_file():
            say(f"carrying on the rehearsal in {root}")
            small = load_config([root / _CONFIG])
        else:
            small = _prepare(config, options, trainer, root, origin)
        check_everything(small, trainer)
        plan = build_plan(small)
        say(render_plan(plan))
        execute(small, plan, trainer, root, lock)
    return EXIT_DONE


def _origin(config: Config, options: argparse.Namespace, trainer: Trainer) -> dict[str, Any]:
    """What makes two rehearsals the same one."""
    digest = hashlib.sha256(config.to_yaml().encode()).hexdigest()
    return {"config": digest, "minutes": options.minutes, "ranks": options.ranks, "trainer": trainer.name}


class _Holds(Enum):
    """What a directory holds, seen from one rehearsal."""

    NOTHING = "nothing that a rehearsal could harm"
    THIS = "this rehearsal, begun"
    OTHER = "another rehearsal, a run, or somebody's files"


def _holds(root: Path, origin: dict[str, Any]) -> _Holds:
    from gaff.supervisor.lock import LOCK_NAME

    if not root.is_dir() or all(path.name == LOCK_NAME or path.name.startswith(".") for path in root.iterdir()):
        return _Holds.NOTHING
    try:
        found = json.loads((root / _ORIGIN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _Holds.OTHER
    if found == origin:
        return _Holds.THIS
    return _Holds.OTHER if any((root / name).exists() for name in _BEGUN) else _Holds.NOTHING


def _refuse_other(root: Path, origin: dict[str, Any]) -> None:
    """Make sure that nothing but this very rehearsal is written into or carried on in ``root``.

    Raises:
        InputError: it holds something else.
    """
    if _holds(root, origin) is _Holds.OTHER:
        what = "this directory holds something else than a rehearsal of this config with these --minutes, --ranks and"
        what += " this trainer"
        remedy = "name a new or empty one with --run-dir"
        raise InputError(Problem("not-this-rehearsal", what, remedy, Location(str(root))))


def _own_directory(base: Path, origin: dict[str, Any]) -> Path:
    """``base``, or ``base-2`` and so on: the first that is free, or holds this rehearsal unfinished."""
    from gaff.report.summary import summarize

    number = 1
    while True:
        root = base if number == 1 else base.with_name(f"{base.name}-{number}")
        holds = _holds(root, origin)
        if holds is _Holds.NOTHING:
            return root
        if holds is _Holds.THIS:
            iterations = summarize(root)["iterations"]
            if iterations["planned"] is None or iterations["done"] < iterations["planned"]:
                return root
        number += 1


def _prepare(
    config: Config, options: argparse.Namespace, trainer: Trainer, root: Path, origin: dict[str, Any]
) -> Config:
    """Shrink the config and say what was shrunk."""
    from gaff.files import write_json_durably
    from gaff.supervisor.rehearsal import prepare_rehearsal

    write_json_durably(root / _ORIGIN, origin)
    rehearsal = prepare_rehearsal(
        config, trainer, root.absolute(), minutes=options.minutes, ranks=options.ranks, say=say
    )
    say(f"rehearsing with {_NAMES[trainer.name]} {', '.join(str(path) for path in options.config)}; what was shrunk:")
    for sentence in rehearsal.shrunk:
        say(f"  {sentence}")
    return rehearsal.config
