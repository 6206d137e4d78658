# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery reset``."""

from __future__ import annotations

import argparse
from pathlib import Path

from gaff.cli.arguments import whole_number
from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, operate, operating_verb
from gaff.errors import InputError, Problem


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = operating_verb(verbs, "reset", "re-initialise parameters in every copy and zero their moments")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "--parameters",
        nargs="+",
        default=["input_embedding"],
        metavar="NAME",
        help="input_embedding (default), output_embedding, position_embedding, or patterns such as '*.mlp.linear1.*'",
    )
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--rows", type=Path, metavar="FILE", help="only the rows in FILE: one, or FIRST-LAST, a line")
    rows.add_argument("--fraction", type=_fraction, metavar="P", help="only this share of the rows, drawn by the seed")
    parser.add_argument(
        "--number", type=whole_number(1), default=1, metavar="N", help="number of the reset in its run (1)"
    )
    parser.add_argument("--seed", type=int, default=1234, metavar="S", help="seed of the new values (1234)")
    parser.add_argument(
        "--init",
        default="config",
        metavar="INIT",
        help="config, normal:STD, uniform:BOUND, matched, step0, or a .safetensors file (config)",
    )
    parser.add_argument("--moments", choices=("zero", "keep"), default="zero", help="the optimizer's moments (zero)")
    parser.add_argument(
        "--save-forgotten", type=Path, metavar="FILE", help="keep what was there, moments too, as safetensors"
    )
    parser.set_defaults(run=run)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and up to 1, not {text!r}")
    return value


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.reset import ResetRequest, plan_reset, reset
    from gaff.plan.gaff_values import parse_init

    try:
        init = parse_init(options.init)
    except ValueError as error:
        raise InputError(Problem("init", f"--init {options.init}: {error}", "see gaff surgery reset --help")) from None
    tag = find_checkpoint(options.checkpoint)
    request = ResetRequest(
        number=options.number,
        seed=options.seed,
        init=init,
        moments=options.moments,
        parameters=tuple(options.parameters),
        rows=options.rows,
        fraction=options.fraction,
        forgotten=options.save_forgotten,
    )
    return operate(
        options,
        tag,
        lambda layout: plan_reset(layout, request),
        lambda place: reset(place, request, step0_from=tag.parent),
    )
