# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gaff.data.indexed_dataset import write_dataset
from gaff.doctor.areas.data import DataFacts, DataSet, examine, gather, judge
from gaff.doctor.finding import Finding
from gaff.doctor.subject import Subject
from tests.doctor.conftest import a100s

FINE = DataFacts(("run.yml",), (), (), (DataSet("/d/x", None, 100, 2, 2, 49),), 512, 512, "CharLevelTokenizer", True)


def found(facts: DataFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in judge(facts) if finding.level != "ok"}


def written(project: Path, *documents: list[int], dtype: type = np.uint16) -> None:
    write_dataset(project / "data" / "text_document", list(documents), np.dtype(dtype))


def test_data_that_can_be_trained_on(load: Callable[..., Any], project: Path) -> None:
    written(project, list(range(60)), list(range(40)))
    findings = list(examine(Subject({}, load(), given_gpus=a100s(0))))
    assert [(finding.id, finding.level) for finding in findings] == [(n, "ok") for n in ("config", "data", "tokenizer")]
    assert "100 tokens in 2 documents, 200 B" in findings[1].what


def test_a_broken_rule_is_mended_in_its_file(load: Callable[..., Any], project: Path) -> None:
    written(project, [1, 2])
    config = load("hidden_size=63")
    finding = next(f for f in examine(Subject({}, config, given_gpus=a100s(0))) if f.id == "hidden-heads")
    assert finding.level == "problem"
    assert "not a multiple of num_attention_heads" in finding.what


def test_a_warning_of_the_plan_has_line_and_editor(write: Callable[..., Path], project: Path) -> None:
    from gaff.plan.config import load_config

    written(project, [1, 2])
    config = load_config([write("gradient_clipping: 0.5", "gradient_clipping: 1.0")])
    finding = next(f for f in examine(Subject({}, config, given_gpus=a100s(0))) if f.id == "clipping-not-applied")
    assert finding.level == "warning"
    assert (finding.remedy or "").startswith("${EDITOR:-vi} +30 run.yml  # ")


def test_a_truncated_data_file(load: Callable[..., Any], project: Path) -> None:
    written(project, list(range(60)))
    with open(project / "data" / "text_document.bin", "r+b") as file:
        file.truncate(10)
    findings = found(gather(Subject({}, load(), given_gpus=a100s(0)), load()))
    assert findings["bad-dataset"].level == "problem"
    assert "cut short" in findings["bad-dataset"].what


def test_data_of_a_larger_tokenizer(load: Callable[..., Any], project: Path) -> None:
    written(project, [1, 2], [600])
    findings = found(gather(Subject({}, load(), given_gpus=a100s(0)), load()))
    assert "has the token 600, and the embedding only 512 rows" in findings["data-vocabulary"].what


def test_two_bytes_cannot_hold_every_token() -> None:
    assert found(replace(FINE, vocabulary=100_277, rows=100_352))["data-vocabulary"].level == "problem"
    wide = replace(FINE.sets[0], token_bytes=4)
    assert found(replace(FINE, vocabulary=100_277, rows=100_352, sets=(wide,))) == {}


def test_index_maps_need_a_place() -> None:
    shut = (replace(FINE.sets[0], writable=False),)
    assert found(replace(FINE, sets=shut))["data-directory"].level == "problem"
    assert found(replace(FINE, sets=shut, maps=False)) == {}  # the bundled trainer makes none


def test_without_a_config_there_is_nothing_to_say() -> None:
    assert list(examine(Subject({}, given_gpus=a100s(0)))) == []
