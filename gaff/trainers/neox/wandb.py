# SPDX-License-Identifier: Apache-2.0
"""One Weights & Biases run for all segments of a run: its id, handed to the one process that logs.

GPT-NeoX calls ``wandb.init`` at every start in local rank 0 of every node (``megatron/utils.py:init_wandb``), in every
rank with ``wandb_init_all_ranks``, and logs from rank 0 alone (``megatron/logging.py:tb_wandb_log``).  It gives no id,
so each start would be a new run; W&B takes one from WANDB_RUN_ID and goes on with it where WANDB_RESUME says ``allow``.
Two processes at a time must never have one id: each overwrites what the other sent.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.typed import flag, text
from gaff.trainers.neox.launchers import Nodes

_NEWEST = (0, 28)  # of wandb, that GPT-NeoX at the pinned commit can use
_HOST = "https://api.wandb.ai"  # GPT-NeoX's default of wandb_host


@dataclass(frozen=True)
class WandbVariables:
    """Attributes:
    variables: for every rank.
    raw: under pdsh, text that each node expands for itself (see :func:`environment.rank_environment`).
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, str] = field(default_factory=dict)


def wandb_variables(config: Config, nodes: Nodes, run_id: str, base: Mapping[str, str]) -> WandbVariables:
    """What makes every segment go on with the W&B run of the first.

    Args:
        config: nothing is handed on unless ``use_wandb`` is true.
        nodes: where the ranks run.
        run_id: of the run of GAFF.
        base: the environment of the ranks otherwise; the user's own WANDB_RUN_ID and WANDB_RESUME in it win.
    """
    if not flag(config, "use_wandb"):
        return WandbVariables()
    if "WANDB_RUN_ID" in base:
        return WandbVariables({} if "WANDB_RESUME" in base else {"WANDB_RESUME": "allow"})
    resume = {"WANDB_RESUME": base.get("WANDB_RESUME", "allow")}
    wanted = f"gaff-{run_id}"
    if one_process_logs(config, nodes):
        return WandbVariables({"WANDB_RUN_ID": wanted, **resume})
    if nodes.launcher == "pdsh" and not flag(config, "wandb_init_all_ranks"):
        # Each node its own id, the same in all segments; that of node 0, where rank 0 logs, is the run's.
        return WandbVariables(resume, {"WANDB_RUN_ID": f"{wanted}$(test %n = 0 || printf .%n)"})
    tags = ",".join(filter(None, [base.get("WANDB_TAGS"), wanted]))
    return WandbVariables({"WANDB_TAGS": tags})


def check_version(config: Config, version: str | None) -> Iterator[Problem]:
    """Whether GPT-NeoX can use the W&B package of its Python (None: it has none), which it does before anything else.

    It calls ``wandb.util.generate_id``, which 0.28.0 still has and 0.29.0 does not.
    """
    if not flag(config, "use_wandb"):
        return
    newest = ".".join(map(str, _NEWEST))
    remedy = f"install wandb<{_NEWEST[0]}.{_NEWEST[1] + 1} for GPT-NeoX's Python, or write use_wandb: false"
    if version is None:
        what = "`use_wandb: true`, and GPT-NeoX's Python has no wandb"
        yield config.problem("wandb-missing", "use_wandb", what, remedy)
    elif tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) > _NEWEST:
        what = f"wandb {version} is too new for GPT-NeoX, which calls a function that {newest} was the last to have"
        yield config.problem("wandb-too-new", "use_wandb", what, remedy)


def one_process_logs(config: Config, nodes: Nodes) -> bool:
    """Whether just one process of a launch calls ``wandb.init``."""
    ranks = nodes.ranks
    return ranks == 1 or (not flag(config, "wandb_init_all_ranks") and not nodes.several)


def check_wandb(config: Config, nodes: Nodes, environ: Mapping[str, str]) -> Iterator[Problem]:
    """Whether W&B, where the config asks for it, will log at all, and as one run: warnings."""
    if not flag(config, "use_wandb"):
        return
    base = {**environ, **{name: value or environ.get(name, "") for name, value in config.gaff.environment}}
    if not _has_key(config, base):
        what = "`use_wandb: true`, but there is no API key, so GPT-NeoX will log nothing there, and not say so"
        remedy = "run `wandb login`, or export WANDB_API_KEY (any text with WANDB_MODE=offline)"
        yield config.problem("wandb-no-key", "use_wandb", what, remedy)
    if one_process_logs(config, nodes):
        if "WANDB_RUN_ID" in environ and "WANDB_RUN_ID" not in dict(config.gaff.environment):
            what = f"WANDB_RUN_ID in this shell makes every segment go on with the W&B run {environ['WANDB_RUN_ID']}"
            remedy = "unset WANDB_RUN_ID if another run left it there; if it is meant, say so in `gaff: environment`"
            yield config.problem("wandb-id-of-shell", "use_wandb", what, remedy)
        return
    several = "every rank" if flag(config, "wandb_init_all_ranks") else "a process on every node"
    if "WANDB_RUN_ID" in base:
        what = f"WANDB_RUN_ID is set, and {several} would write to that one W&B run at the same time"
        yield config.problem("wandb-one-id", "use_wandb", what, "unset WANDB_RUN_ID")
    elif nodes.launcher != "pdsh" or flag(config, "wandb_init_all_ranks"):
        key = "wandb_init_all_ranks" if flag(config, "wandb_init_all_ranks") else "use_wandb"
        what = f"{several} starts a W&B run of its own, so each segment makes new ones, all tagged gaff-<run id>"
        remedy = "filter by the tag" if key == "use_wandb" else "remove the key to have one W&B run for all segments"
        yield config.problem("wandb-many-runs", key, what, remedy)


def _has_key(config: Config, base: Mapping[str, str]) -> bool:
    """As ``get_wandb_api_key`` looks for it: WANDB_LOCAL, WANDB_API_KEY, else the machine's entry in ~/.netrc."""
    if "WANDB_LOCAL" in base or "WANDB_API_KEY" in base:
        return True
    named = base.get("NETRC")
    for path in [named] if named else ["~/.netrc", "~/_netrc"]:
        try:
            host = urlsplit(text(config, "wandb_host") or _HOST).netloc.split(":")[0]
            return netrc.netrc(os.path.expanduser(path)).authenticators(host) is not None
        except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: the host is none, or the file no text
            continue
    return False
