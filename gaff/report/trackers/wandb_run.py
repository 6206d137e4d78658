# SPDX-License-Identifier: Apache-2.0
"""One Weights & Biases run for one run of GAFF, whatever is stopped and started in between."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

_STEP = "iteration"
_EXIT_CODES: Mapping[str, int] = {"finished": 0}  # else 1: W&B calls the run failed until it is resumed
_INIT_S = "60"


class WandbRun:
    """See :class:`gaff.report.trackers.worker.Backend`.

    W&B's own step only ever rises, and a run that goes back to an earlier checkpoint does not: ``iteration`` is a value
    of its own, by which every chart is drawn (``define_metric``).

    Args:
        about: ``run_id``, ``name`` and ``parameters`` of the run, ``directory`` for W&B's files; ``project``, ``team``
            and ``group`` where the config names them.
        say: tells a person.
    """

    def __init__(self, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        self._about, self._say = about, say
        self._run: Any = None
        os.environ.setdefault("WANDB_INIT_TIMEOUT", _INIT_S)

    def open(self) -> None:
        """Resume the run; where W&B does not answer, keep everything in files."""
        import wandb

        try:
            self._run = self._init(None)
        except Exception as error:
            files = os.path.join(self._about["directory"], "wandb")
            why = str(error).partition("\n")[0]
            self._say(f"cannot be reached, so its files stay in {files}, for `wandb sync`: {why}")
            wandb.teardown()  # else the id counts as in use
            self._run = self._init("offline")
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        if self._run.url:
            self._say(self._run.url)

    def _init(self, mode: Any) -> Any:
        import wandb

        about = self._about
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or about.get("project") or "gaff",
            entity=os.environ.get("WANDB_ENTITY") or about.get("team"),
            group=os.environ.get("WANDB_RUN_GROUP") or about.get("group"),
            name=os.environ.get("WANDB_NAME") or about["name"],
            id=about["run_id"],
            resume="allow",
            dir=about["directory"],
            mode=mode,
            settings=wandb.Settings(console="off", disable_git=True),
        )
        run.config.update(about["parameters"], allow_val_change=True)
        return run

    def values(self, step: int, values: dict[str, float], at: float) -> None:
        self._run.log({_STEP: step, **values})

    def flush(self) -> None:
        """W&B's own process sends, and tries again, as it sees fit."""

    def close(self, outcome: str) -> None:
        self._run.finish(exit_code=_EXIT_CODES.get(outcome, 1))


def login_problem() -> tuple[str, str] | None:
    """What keeps W&B from taking anything: (what, remedy); None when nothing does.  Asks no server."""
    try:
        import wandb

        settings = wandb.setup().settings
        has_key = settings.mode not in ("online", "shared") or settings.identity_token_file or wandb.api.api_key
    except AttributeError:  # a version that looks elsewhere
        return None
    except Exception as error:  # a package that clashes with it, say
        return f"wandb does not work here ({type(error).__name__}: {error})", "pip install -U 'gaff[wandb]'"
    if has_key:
        return None
    return "there is no API key for W&B", "run `wandb login`, or export WANDB_MODE=offline to keep its files here"
