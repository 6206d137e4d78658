# SPDX-License-Identifier: Apache-2.0
"""What ranks that say nothing wait for, told from where each of them stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gaff.trainers.stacks import Stack

_STOPPED, _IN_KERNEL = ("stopped", "tracing-stop"), ("disk-sleep",)  # psutil's names of process states
_GROUPS_SHOWN = 3
_LOCK, _RENDEZVOUS, _COLLECTIVE = "lock", "rendezvous", "collective"
_WAITS_FOR_OTHERS = (_LOCK, _RENDEZVOUS, _COLLECTIVE)

# What a frame (`file:function`) tells, the more special first.
_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (_LOCK, r"torch/utils/file_baton\.py:wait$"),
        (_RENDEZVOUS, r"torch/distributed/rendezvous\.py:|:init_process_group$"),
        (_COLLECTIVE, r"torch/distributed/|deepspeed/comm/"),
        ("network", r"(?:urllib3|requests|httpx|httpcore|huggingface_hub|wandb)/"),
        ("loader", r"torch/utils/data/"),
        ("compiler", r"torch/utils/cpp_extension\.py:|deepspeed/ops/op_builder/|:compile_helper$"),
        ("index", r"data/(?:gpt2_dataset|blendable_dataset|data_utils|samplers)\.py:"),
        ("disk", r"torch/serialization\.py:|torch_checkpoint_engine\.py:|indexed_dataset\.py:|numpy/lib/"),
    )
)
_REMEDIES = {
    _RENDEZVOUS: "see that all nodes started and reach each other at master_addr, past every firewall",
    _COLLECTIVE: "see whether a rank died on another node or the network between the GPUs failed, and set"
    " NCCL_DEBUG=INFO in `gaff: environment` if it comes again",
    "network": "let the trainer do without the network: set HF_HUB_OFFLINE=1 and WANDB_MODE=offline in `gaff:"
    " environment`",
    "loader": "see that the data's file system answers, or set num_workers: 0",
    "compiler": "see whether the compiler still works in the background; then wait longer",
    "index": "give the data's index the time it needs",
    "disk": "see whether the file system answers",
}
_ONLY_SLOW = "if it was only slow, raise `gaff: watch: silence_minutes`"


@dataclass(frozen=True)
class Finding:
    """What is said of a hang.

    Attributes:
        standing: where the ranks stand, as the end of a sentence.
        remedy: what to do.
        lines: one for each place, for a person to look at.
    """

    standing: str
    remedy: str
    lines: tuple[str, ...]


def judge(stacks: Sequence[Stack], locks: Sequence[Path] = ()) -> Finding:
    """What ``stacks`` tell.

    Args:
        stacks: of the ranks that could print theirs, none at worst.
        locks: files with which builds of torch extensions guard their folders, as far as there are any.
    """
    if not stacks:
        return Finding("no rank could say where it stands", f"look at the machine; {_ONLY_SLOW}", ())
    groups: dict[str, list[Stack]] = {}
    for stack in stacks:
        groups.setdefault(str(stack.innermost) + _condition(stack), []).append(stack)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    shown = [_standing(place, members, len(stacks)) for place, members in ordered[:_GROUPS_SHOWN]]
    if len(ordered) > _GROUPS_SHOWN:
        shown.append(f"the others in {len(ordered) - _GROUPS_SHOWN} further places")
    lines = tuple(
        f"{_names(members)}: {place}" + (f", called from {caller}" if (caller := members[0].caller) else "")
        for place, members in ordered
    )
    return Finding(", ".join(shown), f"{_remedy(stacks, locks)}; {_ONLY_SLOW}", lines)


def _standing(place: str, members: Sequence[Stack], of: int) -> str:
    if len(members) == of:
        whose = {1: f"{members[0].owner} stands", 2: "both ranks stand"}.get(of, f"all {of} ranks stand")
    elif len(members) > 1:
        whose = f"{len(members)} of {of} ranks stand"
    else:
        whose = f"{members[0].owner} stands"
    return f"{whose} in {place}"


def _names(stacks: Iterable[Stack]) -> str:
    return ", ".join(stack.owner for stack in stacks)


def _condition(stack: Stack) -> str:
    if stack.state in _STOPPED:
        return ", stopped by a signal"
    return ", waiting in the kernel" if stack.state in _IN_KERNEL else ""


def _kind(stack: Stack) -> str | None:
    texts = [f"{frame.file}:{frame.function}" for frame in stack.frames]
    return next((kind for kind, pattern in _KINDS if any(pattern.search(text) for text in texts)), None)


def _remedy(stacks: Sequence[Stack], locks: Sequence[Path]) -> str:
    stopped = [stack for stack in stacks if stack.state in _STOPPED]
    if stopped:
        return f"find who stopped {_names(stopped)} (SIGSTOP, or a debugger), and run the same command again"
    stuck = [stack for stack in stacks if stack.state in _IN_KERNEL]
    if stuck:
        return f"see whether the file system that {_names(stuck)} uses answers, and run the same command again"
    kinds = {stack: _kind(stack) for stack in stacks}
    held_up = [stack for stack, kind in kinds.items() if kind not in _WAITS_FOR_OTHERS]
    decisive = held_up or list(stacks)
    kind = next((name for name, _ in _KINDS if name in {kinds[stack] for stack in decisive}), None)
    if kind == _LOCK:
        names = " or ".join(map(str, locks)) or "the file `lock` in the op's folder of TORCH_EXTENSIONS_DIR"
        return (
            f"see that no build is at work, delete {names}, which a killed build leaves, and run the same command again"
        )
    if kind is not None:
        return f"{_REMEDIES[kind]}; then run the same command again"
    whose = _names(held_up)
    waits = ": the others wait for it" if len(held_up) < len(stacks) else ""
    return f"see why {whose} stays there{waits}; then run the same command again"
