# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery``: inspect, reset and verify one checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Problem

_CHECKPOINT = "a tag directory, or a save directory, whose `latest` is then taken"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    family = subparsers.add_parser("surgery", help="operate on a checkpoint: inspect, reset, verify")
    verbs = family.add_subparsers(metavar="VERB", required=True)
    _add_inspect(verbs)
    _add_reset(verbs)
    _add_verify(verbs)


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, help: str) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=_CHECKPOINT)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _add_inspect(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "inspect", "say what a checkpoint is and where every copy of the embedding lives")
    parser.set_defaults(run=run_inspect)


def _add_verify(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(
        verbs, "verify", "check that a checkpoint is whole, its copies agree, and resets changed nothing else"
    )
    parser.set_defaults(run=run_verify)


def _add_reset(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "reset", "re-initialise the input embedding in every copy and zero its Adam moments")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--in-place", action="store_true", help="edit the checkpoint itself (safe to kill and repeat)")
    target.add_argument(
        "--output", type=Path, metavar="DIR", help="edit a copy in DIR; untouched files are hard-linked"
    )
    target.add_argument("--dry-run", action="store_true", help="only list every byte range that would change")
    parser.add_argument("--number", type=_positive, default=1, metavar="N", help="number of the reset in its run (1)")
    parser.add_argument("--seed", type=int, default=1234, metavar="S", help="seed of the new values (1234)")
    parser.add_argument(
        "--init",
        default="config",
        metavar="INIT",
        help="config, normal:STD, uniform:BOUND, matched, step0, or a .safetensors file (config)",
    )
    parser.add_argument("--moments", choices=("zero", "keep"), default="zero", help="Adam moments (zero)")
    parser.add_argument("--save-forgotten", action="store_true", help="keep what was there as safetensors in the tag")
    parser.set_defaults(run=run_reset)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def run_inspect(options: argparse.Namespace) -> int:
    from gaff.checkpoint.inspect import inspect_tag, render_inspection
    from gaff.checkpoint.tag import find_tag

    found = inspect_tag(find_tag(options.checkpoint))
    print(json.dumps(found, indent=1) if options.json else render_inspection(found))
    return EXIT_DONE


def run_verify(options: argparse.Namespace) -> int:
    from gaff.checkpoint.tag import find_tag
    from gaff.checkpoint.verify import verify_tag

    tag = find_tag(options.checkpoint)
    faults = verify_tag(tag)
    if options.json:
        listed = [{"id": f.id, "what": f.what, "where": str(f.where), "remedy": f.remedy} for f in faults]
        print(json.dumps({"schema": "gaff.verify/1", "checkpoint": str(tag), "sound": not faults, "faults": listed}))
    elif faults:
        print("\n".join(str(fault) for fault in faults))
    else:
        print(f"{tag}: sound: every file is whole, all copies agree, resets changed nothing else")
    return EXIT_FAILED if faults else EXIT_DONE


def run_reset(options: argparse.Namespace) -> int:
    from gaff.checkpoint.layout import read_layout
    from gaff.checkpoint.surgery import ResetRequest, copy_tag, plan_reset, reset
    from gaff.checkpoint.tag import find_tag
    from gaff.plan.gaff_block import parse_init

    try:
        init = parse_init(options.init)
    except ValueError as error:
        raise InputError(Problem("init", f"--init {options.init}: {error}", "see gaff surgery reset --help")) from None
    request = ResetRequest(options.number, options.seed, init, options.moments, options.save_forgotten)
    tag = find_tag(options.checkpoint)
    if options.dry_run:
        operation = plan_reset(read_layout(tag), request)
        _print_reset(options.json, tag, operation.to_json(), "would change")
        return EXIT_DONE
    if options.output:
        tag = copy_tag(tag, options.output)
    result = reset(tag, request)
    done = "was already done and" if result.already_done else "changed"
    _print_reset(options.json, tag, result.operation.to_json(), done)
    return EXIT_DONE


def _print_reset(as_json: bool, tag: Path, operation: dict[str, Any], verb: str) -> None:
    if as_json:
        print(json.dumps({**operation, "checkpoint": str(tag)}))
        return
    edits = operation["edits"]
    size = sum(e["copy"]["length"] for e in edits)
    print(f"{tag}: reset {operation['reset']} {verb} {size:,} bytes in {len(edits)} ranges")
    for edit in edits:
        copy = edit["copy"]
        end = copy["offset"] + copy["length"]
        print(f"  {copy['file']}  {copy['record']}  [{copy['offset']}, {end})  {copy['kind']}  {edit['content']}")
