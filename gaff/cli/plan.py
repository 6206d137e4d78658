# SPDX-License-Identifier: Apache-2.0
"""``gaff plan``: what a config would do, as a table or as JSON.  Starts nothing, writes nothing."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from gaff.cli.plan_forecast import forecast
from gaff.cli.plan_text import columns
from gaff.cli.plan_text import render_plan as render_plan
from gaff.errors import EXIT_DONE, EXIT_WRONG_INPUT, InputError, Problem
from gaff.plan.checks import check
from gaff.plan.config import Config, load_config
from gaff.plan.plan import build_plan, problem_json
from gaff.plan.settings import ContainerSettings, GaffSettings, KeepSettings, WatchSettings

_BLOCKS = {"container": ContainerSettings, "watch": WatchSettings, "keep": KeepSettings}  # blocks inside the block


def add_config_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """``--config`` and ``-o``, the same for every verb that takes a config."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        action="append",
        required=required,
        help="GPT-NeoX YAML file with a `gaff:` block; may be given several times, later files win",
    )
    parser.add_argument(
        "-o",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key, for example -o gaff.reset_every=500 or -o optimizer.params.lr=0.001",
    )


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """``--run-dir`` and ``--neox-dir``, the same for every verb that begins a run."""
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="where the run lives (runs/<name of the config>)")
    parser.add_argument(
        "--neox-dir", type=Path, metavar="DIR", help="the GPT-NeoX checkout; else gaff: neox_dir, GPT_NEOX_DIR"
    )


def add_parser(subparsers: Any) -> None:
    """Register the verb."""
    parser = subparsers.add_parser(
        "plan",
        help="segments, resets, sizes and tokens of a config",
        description="Read and check a config, and print what a run of it would do. Starts nothing.",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--iteration-ms", type=float, metavar="N", help="how long one iteration takes, to work out time and GPU hours"
    )
    parser.add_argument(
        "--boundary-seconds", type=float, metavar="N", help="how long it takes from one segment to the next"
    )
    parser.add_argument(
        "--measured", type=Path, metavar="RUN", help="take both from the directory of a run, from its summary.json"
    )
    parser.add_argument(
        "--time-limit", metavar="TIME", help="of one job, as for `gaff run`: how many jobs the run needs in a chain"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON (schema gaff.plan/1)")
    parser.add_argument("--keys", action="store_true", help="print every key of the `gaff:` block and leave")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The verb itself.  Returns the exit code: 2 when the config has errors, also where a plan could be shown."""
    if args.keys:
        print(encodable(render_keys()))
        return EXIT_DONE
    if not args.config:
        raise InputError(
            Problem("config-missing", "no config is given", "add --config FILE, or --keys for the gaff keys")
        )
    config = load_config(args.config, args.overrides)
    errors = check(config)
    launcher, more = _launcher_keys(config)
    errors += () if any(problem.id == "hostfile-missing" for problem in errors) else more
    try:
        plan = build_plan(config, launcher)
    except InputError as error:
        raise InputError(errors or error.problems) from None
    outlook = forecast(config, plan, args.measured, args.iteration_ms, args.boundary_seconds, args.time_limit)
    if args.json:
        whole = {**plan.to_json(), **outlook.to_json()}
        whole["warnings"] += [problem_json(problem) for problem in outlook.warnings]
        print(_as_json({**whole, "problems": [problem_json(problem) for problem in errors]}))
    else:
        print(encodable(render_plan(plan, outlook)))
    for problem in errors:
        print(f"gaff: {problem}", file=sys.stderr)
    return EXIT_WRONG_INPUT if errors else EXIT_DONE


def _launcher_keys(config: Config) -> tuple[Mapping[str, Any], Sequence[Problem]]:
    """What GPT-NeoX's launcher will need, seen from this shell; nothing, and why, where the hostfile is wrong."""
    if config.gaff.trainer == "bundled":
        return {}, ()
    from gaff.trainers.neox.launching import launch_keys

    try:
        return launch_keys(config, os.environ), ()
    except InputError as error:
        return {}, error.problems


def _as_json(plan: Mapping[str, Any]) -> str:
    """The plan as JSON, which has no infinity: one that stands in a wrong config comes out as null."""
    return json.dumps(json.loads(json.dumps(plan), parse_constant=lambda name: None), indent=2)


def encodable(text: str) -> str:
    """The text as standard output can show it: what its encoding lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def render_keys() -> str:
    """Every key of the ``gaff:`` block with its default and meaning."""
    rows: list[tuple[str, str, str]] = []
    for item in fields(GaffSettings):
        inner = _BLOCKS.get(item.name)
        default = "required" if item.default is MISSING else _yaml_word(item.default)
        rows.append((item.name, default if inner is None else "", item.metadata["doc"]))
        rows += _inner_rows(inner) if inner else []
    return "\n".join(columns(rows))


def _inner_rows(kind: type[Any]) -> list[tuple[str, str, str]]:
    """The keys of a block inside the block."""
    return [
        (f"  {item.name}", "required" if item.default is MISSING else _inner_word(item), item.metadata["doc"])
        for item in fields(kind)
    ]


def _inner_word(item: Field[Any]) -> str:
    return "never" if item.default is None and "never" in item.metadata["doc"] else _yaml_word(item.default)


def _yaml_word(value: object) -> str:
    if value == ():
        return "none"
    if isinstance(value, tuple):
        return ", ".join(value)
    return {"None": "null", "False": "false", "True": "true"}.get(str(value), str(value))
