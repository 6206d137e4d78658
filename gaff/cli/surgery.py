# SPDX-License-Identifier: Apache-2.0
"""``gaff surgery``: inspect, reset and verify one checkpoint, finish a reset that was cut short."""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gaff.cli.arguments import whole_number
from gaff.errors import EXIT_DONE, EXIT_FAILED, InputError, Problem

if TYPE_CHECKING:
    from gaff.checkpoint.surgery import ResetRequest, ResetResult

_CHECKPOINT = "a tag directory, or a save directory, whose `latest` is then taken"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    family = subparsers.add_parser("surgery", help="operate on a checkpoint: inspect, reset, finish, verify")
    verbs = family.add_subparsers(metavar="VERB", required=True)
    _add_inspect(verbs)
    _add_reset(verbs)
    _add_finish(verbs)
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


def _add_finish(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "finish", "finish a reset that was begun in a checkpoint and cut short")
    parser.set_defaults(run=run_finish)


def _add_reset(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _verb(verbs, "reset", "re-initialise the input embedding in every copy and zero its Adam moments")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--in-place", action="store_true", help="edit the checkpoint itself (safe to kill and repeat)")
    target.add_argument(
        "--output", type=Path, metavar="DIR", help="edit a copy in DIR; untouched files are hard-linked"
    )
    target.add_argument("--dry-run", action="store_true", help="only list every byte range that would change")
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
    parser.add_argument("--moments", choices=("zero", "keep"), default="zero", help="Adam moments (zero)")
    parser.add_argument("--save-forgotten", action="store_true", help="keep what was there as safetensors in the tag")
    parser.set_defaults(run=run_reset)


def run_inspect(options: argparse.Namespace) -> int:
    from gaff.checkpoint.inspect import inspect_tag, render_inspection
    from gaff.checkpoint.tag import find_tag

    found = inspect_tag(find_tag(options.checkpoint))
    print(_json(found, indent=1) if options.json else render_inspection(found))
    return EXIT_DONE


def run_verify(options: argparse.Namespace) -> int:
    from gaff.checkpoint.tag import find_tag
    from gaff.checkpoint.verify import verify_tag

    tag = find_tag(options.checkpoint)
    faults = verify_tag(tag)
    if options.json:
        listed = [{"id": f.id, "what": f.what, "where": str(f.where), "remedy": f.remedy} for f in faults]
        print(_json({"schema": "gaff.verify/1", "checkpoint": str(tag), "sound": not faults, "faults": listed}))
    elif faults:
        print("\n".join(str(fault) for fault in faults))
    else:
        print(f"{tag}: sound: every file is whole, all copies agree, resets changed nothing else")
    return EXIT_FAILED if faults else EXIT_DONE


def run_finish(options: argparse.Namespace) -> int:
    from gaff.checkpoint.surgery import finish_interrupted
    from gaff.checkpoint.tag import find_tag

    tag = find_tag(options.checkpoint)
    record = finish_interrupted(tag)
    if record is not None:
        _print_reset(options.json, tag, record.operation.to_json(), "is finished:")
    else:
        print(_json({"checkpoint": str(tag), "reset": None}) if options.json else f"{tag}: no reset was left half done")
    return EXIT_DONE


def run_reset(options: argparse.Namespace) -> int:
    from gaff.checkpoint.layout import read_layout
    from gaff.checkpoint.surgery import ResetRequest, plan_reset, reset
    from gaff.checkpoint.tag import find_tag
    from gaff.plan.gaff_block import parse_init

    try:
        init = parse_init(options.init)
    except ValueError as error:
        raise InputError(Problem("init", f"--init {options.init}: {error}", "see gaff surgery reset --help")) from None
    request = ResetRequest(options.number, options.seed, init, options.moments, options.save_forgotten)
    tag = find_tag(options.checkpoint)
    if tag.name in ("", ".."):  # its neighbours and its own name matter
        tag = tag.resolve()
    if options.dry_run:
        _print_reset(options.json, tag, plan_reset(read_layout(tag), request).to_json(), "would change")
        return EXIT_DONE
    if options.output:
        tag, result = _reset_copy(tag, options.output, request)
    else:
        result = reset(tag, request)
    done = "was already done:" if result.already_done else "changed"
    _print_reset(options.json, tag, result.operation.to_json(), done)
    return EXIT_DONE


def _reset_copy(tag: Path, output: Path, request: ResetRequest) -> tuple[Path, ResetResult]:
    """Make the reset in a copy.  Nothing is left in ``output`` when it cannot be made.

    Raises:
        CheckpointError, InputError: as :func:`gaff.checkpoint.surgery.reset`, before anything is copied.
    """
    from gaff.checkpoint.layout import read_layout
    from gaff.checkpoint.surgery import plan_reset, reset
    from gaff.checkpoint.tag_copy import copy_tag, refuse_output
    from gaff.plan.directories import directory_problem, make_directory

    role, remedy = "--output", "choose another --output"
    refuse_output(tag, output)
    problem = directory_problem((output / tag.name).absolute(), role, remedy)
    if problem:
        raise InputError(problem)
    plan_reset(read_layout(tag), request)
    make_directory(output.absolute(), role, remedy)
    copy = copy_tag(tag, output)
    try:
        return copy, reset(copy, request, step0_from=tag.parent)
    except BaseException:
        shutil.rmtree(copy, ignore_errors=True)
        raise


def _print_reset(as_json: bool, tag: Path, operation: dict[str, Any], verb: str) -> None:
    if as_json:
        print(_json({**operation, "checkpoint": str(tag)}))
        return
    edits = operation["edits"]
    size = sum(e["copy"]["length"] for e in edits)
    print(f"{tag}: reset {operation['reset']} {verb} {size:,} bytes in {len(edits)} ranges")
    for edit in edits:
        copy = edit["copy"]
        end = copy["offset"] + copy["length"]
        print(f"  {copy['file']}  {copy['record']}  [{copy['offset']}, {end})  {copy['kind']}  {edit['content']}")


def _json(value: Any, indent: int | None = None) -> str:
    """``value`` as JSON, which has no NaN and no infinity: they come out as null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
