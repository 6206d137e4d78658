# SPDX-License-Identifier: Apache-2.0
"""Rules: GPT-NeoX keys that would break resuming from an edited checkpoint.  One table, one reason each.

Sources: contract sections 1.4, 2.3, 2.4 and 7.3.
"""

from __future__ import annotations

from collections.abc import Iterator

from gaff.errors import Problem
from gaff.plan.config import Config
from gaff.plan.typed import flag, text

#: Boolean keys that must not be true: (key, what happens, remedy).
_MUST_BE_FALSE = (
    ("finetune", "each segment would start at iteration 0 with a fresh optimizer", "remove it"),
    ("no_load_optim", "GPT-NeoX cannot train with it: the optimizer becomes a dummy", "remove it"),
    ("adlr_autoresume", "GPT-NeoX declares it and does nothing with it; GAFF itself resumes", "remove it"),
    (
        "checkpoint_validation_with_forward_pass",
        "it compares stored logits on loading, which a reset rightly changes",
        "remove it",
    ),
    (
        "checkpoint.use_node_local_storage",
        "each node would keep only its own shards, and a reset needs all of them in one place",
        "remove it and save to a shared file system",
    ),
)


def check_checkpoint(config: Config) -> Iterator[Problem]:
    """Keys about saving and loading."""
    for key, why, remedy in _MUST_BE_FALSE:
        if flag(config, key):
            yield config.problem(_id(key), key, f"`{key}: true` does not go with GAFF: {why}", remedy)
    yield from _save_and_load(config)
    yield from _keep(config)
    if flag(config, "no_save_rng") and not flag(config, "no_load_rng"):
        what = "`no_save_rng: true` makes every resume end with exit code 0 and nothing trained"
        yield config.problem("no-save-rng", "no_save_rng", what, "remove it, or add `no_load_rng: true`")
    if config.get("s3_path") is not None:
        what = "`s3_path` uploads a tag before the reset is made in it"
        yield config.problem("s3-path", "s3_path", what, "remove it and upload after the run")
    if config.get("keep_last_n_checkpoints") is not None:
        what = (
            "`keep_last_n_checkpoints` makes GPT-NeoX delete tags behind GAFF's back, the one to resume from or"
            " global_step0 among them"
        )
        yield config.problem("keep-last-n", "keep_last_n_checkpoints", what, "remove it")
    if flag(config, "override_lr_scheduler") and flag(config, "use_checkpoint_lr_scheduler"):
        what = "`override_lr_scheduler` and `use_checkpoint_lr_scheduler` are both true"
        yield config.problem("lr-scheduler-flags", "override_lr_scheduler", what, "remove one of them")


def _save_and_load(config: Config) -> Iterator[Problem]:
    load, save = text(config, "load"), text(config, "save")
    if load is not None and load != save:
        instead = f"`save` is {save}" if save else "`save` is not given"
        what = f"`load: {load}` is another directory than the run saves to ({instead})"
        yield config.problem("load-differs-from-save", "load", what, "remove `load`: GAFF sets it for each segment")


def _keep(config: Config) -> Iterator[Problem]:
    if config.gaff.keep.resets and config.gaff.reset_every is None:
        what = "`gaff.keep` is to keep the tags with a reset, but `reset_every: never` makes none"
        yield config.problem("reset-never", "gaff.keep", what, "say with newest and every which tags are to stay")


def _id(key: str) -> str:
    return key.replace(".", "-").replace("_", "-")
