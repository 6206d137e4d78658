# SPDX-License-Identifier: Apache-2.0
"""What lies in ``gaff/`` may come from other people, or from another GAFF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.surgery.perform import finish_interrupted
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.checkpoint.transaction import FOLDER, INTENT, STAGED, valid_records
from gaff.checkpoint.verify import verify_tag
from gaff.errors import CheckpointError
from tests.checkpoint.tags import everything

GetTag = Callable[[str], Path]
NAME = "zero1-fp32-pp1-tp1-dp1"
LAYER = "layer_00-model_00-model_states.pt"


def as_intent(tag: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Turn the tag's one record into an intent that is changed."""
    record = tag / FOLDER / "0001-reset.json"
    fields = json.loads(record.read_text())
    record.unlink()
    change(fields)
    (tag / FOLDER / INTENT).write_text(json.dumps(fields))


def outside(fields: dict[str, Any]) -> None:
    fields["replaced"]["../victim.pt"] = {}
    fields["crcs_before"]["../victim.pt"] = {}


def elsewhere(fields: dict[str, Any]) -> None:
    for edit in fields["edits"]:
        edit["copy"]["file"] = "../victim.pt"
    fields["crcs_before"] = {"../victim.pt": {}}


def no_weights(fields: dict[str, Any]) -> None:
    fields["untouched"]["configs"] = "0"


def out_of_nowhere(fields: dict[str, Any]) -> None:
    fields["sources"] = {}


def not_listed(fields: dict[str, Any]) -> None:
    del fields["crcs_before"][LAYER]


def backwards(fields: dict[str, Any]) -> None:
    fields["selections"] = {"0.word_embeddings.weight": {"rows": 512, "runs": [[4, 2]]}}


def beyond(fields: dict[str, Any]) -> None:
    fields["selections"] = {"0.word_embeddings.weight": {"rows": 512, "runs": [[4, 513]]}}


@pytest.mark.parametrize(
    "change", [outside, elsewhere, no_weights, out_of_nowhere, not_listed, backwards, beyond], ids=lambda c: c.__name__
)
def test_an_intent_that_leads_nowhere_or_out_of_the_tag_is_refused(
    change: Callable[[dict[str, Any]], None], checkpoint: GetTag
) -> None:
    tag = checkpoint(NAME)
    reset(tag, ResetRequest(1, 1))
    as_intent(tag, change)
    (tag.parent / "victim.pt").write_bytes(b"somebody's")
    (tag / FOLDER / STAGED).mkdir()
    (tag / FOLDER / "victim.pt").write_bytes(b"evil")  # where gaff/staged/../victim.pt leads to
    before = everything(tag.parent)
    with pytest.raises(CheckpointError, match=r"intent\.json.*cannot be read"):
        finish_interrupted(tag)
    assert everything(tag.parent) == before


@pytest.mark.parametrize("name", ["0001-reset.json", INTENT])
def test_what_another_version_left_is_said_to_be_that(name: str, checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    reset(tag, ResetRequest(1, 1))
    as_intent(tag, lambda fields: fields.update(schema="gaff.operation/1"))
    (tag / FOLDER / INTENT).rename(tag / FOLDER / name)
    (problem,) = verify_tag(tag)
    assert problem.id == "other-version"
    assert "gaff.operation/1" in problem.what
    with pytest.raises(CheckpointError, match="another version of GAFF"):
        reset(tag, ResetRequest(2, 1))


def test_a_record_of_files_elsewhere_is_refused(checkpoint: GetTag) -> None:
    tag = checkpoint(NAME)
    reset(tag, ResetRequest(1, 1))
    record = tag / FOLDER / "0001-reset.json"
    fields = json.loads(record.read_text())
    fields["crcs_after"]["../../victim.pt"] = {}
    record.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="cannot be read"):
        valid_records(tag)
