# SPDX-License-Identifier: Apache-2.0
"""The `track` key: what it takes, what it refuses, and that it stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gaff.errors import Location, Problem
from gaff.plan.config import Config, load_config

Load = Callable[..., Config]
Problems = Callable[..., list[Problem]]


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("tensorboard", ("tensorboard",)),
        ("wandb", ("wandb",)),
        ("[mlflow, tensorboard]", ("mlflow", "tensorboard")),
        ("[wandb, wandb]", ("wandb",)),
        ("none", ()),
        ("[]", ()),
    ],
)
def test_what_is_written_is_meant_and_stays(load: Load, project: Path, written: str, names: tuple[str, ...]) -> None:
    config = load(f"gaff.track={written}")
    assert config.gaff.track == names
    (project / "again.yml").write_text(config.to_yaml())
    assert load_config([Path("again.yml")]).gaff == config.gaff


def test_tensorboard_is_the_default_and_not_written_out(load: Load) -> None:
    assert load().gaff.track == ("tensorboard",)
    assert "track" not in load().to_yaml()


@pytest.mark.parametrize(
    ("written", "said", "line"),
    [
        ("track: comet", "the text `comet`", 3),
        ("track: true", "the true/false value `true`", 3),
        ("track: {wandb: true}", "a mapping", 3),
        ("track:", "empty", 3),
        ("track:\n    - wandb\n    - neptune", "the text `neptune`", 5),
        ("track: [none]", "the text `none`", 3),
    ],
)
def test_anything_else_is_refused_where_it_stands(problems: Problems, written: str, said: str, line: int) -> None:
    [problem] = problems("seed: 7", written)
    assert problem.what == f"`gaff.track` must be tensorboard, wandb, mlflow, a list of these, or none, not {said}"
    assert problem.where == Location("run.yml", line)
    assert problem.remedy == "write `track: [tensorboard, wandb]`, for example"
