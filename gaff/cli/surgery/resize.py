# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery resize``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gaff.cli.arguments import whole_number
from gaff.cli.surgery.common import CHECKPOINT, Verbs, find_checkpoint, operate, operating_verb, tell_nothing
from gaff.errors import EXIT_DONE, InputError, Problem

if TYPE_CHECKING:
    from gaff.checkpoint.layout.layout import Layout
    from gaff.checkpoint.operation import Operation
    from gaff.checkpoint.surgery.perform import Result

_ABOUT = """\
Give a model another number of tokens, in every copy of its input and output embedding.  Rows are padded as GPT-NeoX
pads them, to a multiple of make_vocab_size_divisible_by x TP.  Old rows stay as they are, new ones are initialised and
have no moments, and a smaller vocabulary loses its last rows.  No other weight changes.  The files are written anew, so
as much free space is needed as they take.

New output rows take probability from the old tokens, which raises the loss on old text.  With --output-rows quiet, the
default, each also gets a constant logit, far below the others: weights and bias of the final LayerNorm make one
direction in which all hidden states are alike.  The loss on old text then stays as it was, and the new rows rise as
soon as their tokens occur in training; until then the gradient of the final LayerNorm's bias is large, so train with
gradient clipping.  Where the model has no such direction (RMSNorm; a bias that training has hardly moved), this is
refused and --output-rows init is the choice.  Where embeddings are tied, the same direction is in the new input rows
too; old text never reads those, and where it would drown what tells the new tokens apart, it is refused as well.
"""


def add_parser(verbs: Verbs[argparse.ArgumentParser]) -> None:
    parser = operating_verb(verbs, "resize", "grow or shrink the vocabulary")
    parser.description = _ABOUT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    parser.add_argument(
        "--vocab", type=whole_number(1), required=True, metavar="N", help="tokens of the new tokenizer, before padding"
    )
    parser.add_argument("--seed", type=int, default=1234, metavar="S", help="seed of the new rows (1234)")
    parser.add_argument(
        "--init",
        default="config",
        metavar="INIT",
        help="new rows: config, normal:STD, uniform:BOUND, matched, or a .safetensors file of all rows (config)",
    )
    parser.add_argument(
        "--output-rows", choices=("quiet", "init"), default="quiet", help="new rows of the output embedding (quiet)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery.resize import Fits, ResizeRequest, plan_resize, resize
    from gaff.plan.gaff_values import parse_init

    try:
        init = parse_init(options.init)
    except ValueError as error:
        raise InputError(Problem("init", f"--init {options.init}: {error}", "see gaff surgery resize --help")) from None
    tag = find_checkpoint(options.checkpoint)
    request = ResizeRequest(vocab=options.vocab, init=init, seed=options.seed, output_rows=options.output_rows)

    found: list[Operation] = []

    def plan(layout: Layout) -> Operation:
        found.append(plan_resize(layout, request))
        return found[-1]

    def do(place: Path) -> Result:
        result = resize(place, request)
        found.append(result.operation)
        return result

    try:
        code = operate(options, tag, plan, do)
    except Fits as fits:
        _tell_fits(options, tag, fits.rows)
        return EXIT_DONE
    if not options.json:
        print(f"  {found[-1].about['config']}")
    return code


def _tell_fits(options: argparse.Namespace, tag: Path, rows: int) -> None:
    why = f"already fits: {options.vocab:,} tokens take {rows:,} rows, as many as it has; nothing changed"
    tell_nothing(options.json, tag, why, rows={"before": rows, "after": rows})
