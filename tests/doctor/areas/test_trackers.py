# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gaff.doctor.areas.trackers import examine
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s


def test_what_is_asked_for_and_ready_is_named(load: Callable[..., Any]) -> None:
    (finding,) = examine(Subject({}, load(), given_gpus=a100s(0)))
    assert (finding.level, finding.what) == ("ok", "metrics can be sent to tensorboard")


def test_what_keeps_a_tracker_from_working_is_told(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (finding,) = examine(Subject({}, load("gaff.track=[mlflow]"), given_gpus=a100s(0)))
    assert finding.level == "problem"
    assert "mlflow" in finding.what
    assert finding.remedy


def test_without_a_config_or_trackers_there_is_nothing_to_say(load: Callable[..., Any]) -> None:
    assert list(examine(Subject({}, load("gaff.track=none"), given_gpus=a100s(0)))) == []
    assert list(examine(Subject({}, None, given_gpus=a100s(0)))) == []
