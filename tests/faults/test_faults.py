# SPDX-License-Identifier: Apache-2.0
"""The fault bench as tests: quick and diverse cases with the whole suite, the rest with ``-m exhaustive``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.bench import run_case
from tests.faults.cases import CASES, Case
from tests.faults.grounds import Grounds

pytest.importorskip("deepspeed")


@pytest.fixture(scope="session")
def grounds(tmp_path_factory: pytest.TempPathFactory) -> Grounds:
    return Grounds(tmp_path_factory.mktemp("grounds"))


def _parameter(case: Case) -> object:
    return pytest.param(case, id=case.name, marks=pytest.mark.slow if case.quick else pytest.mark.exhaustive)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [_parameter(case) for case in CASES])
def test_a_disturbed_run_ends_as_if_nothing_had_happened(case: Case, grounds: Grounds, tmp_path: Path) -> None:
    result = run_case(case, grounds, tmp_path / "case")
    if result.skipped:
        pytest.skip(result.skipped)
    assert result.wrong == ()


def test_the_matrix_is_as_large_as_it_must_be() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60
    assert sum(case.fault.kill_9 for case in CASES) >= 20
