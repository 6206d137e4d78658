# SPDX-License-Identifier: Apache-2.0
"""What ``inspect`` says of the real checkpoints, against their oracles, which none of GAFF's code has written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.checkpoint.archive import Archive
from gaff.checkpoint.inspect import inspect_tag, render_inspection
from gaff.checkpoint.surgery.reset import ResetRequest, reset
from gaff.errors import InputError
from tests.conftest import ALL_NAMES

GetTag = Callable[[str], Path]
GetOracle = Callable[[str], dict[str, Any]]

PIPELINE = "zero1-fp32-tp2-pp2-dp2"
ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_every_copy_is_where_the_oracle_says_and_nowhere_else(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    (embedding,) = inspect_tag(checkpoint(name))["looked_into"]
    known = oracle(name)
    block = known["layout"]["shard_numel"]
    found = sorted(
        (
            c["file"],
            c["kind"],
            c["dtype"],
            c["tensor_rank"],
            c["offset"],
            c["length"],
            c["tensor_rank"] * block + c["start"],
        )
        for c in embedding["copies"]
    )
    assert found == sorted(
        (
            Path(place["file"]).name,
            place["kind"],
            place["dtype"],
            place["tp_rank"],
            (place["storage_offset"] + place["range"][0]) * ITEM_SIZE[place["dtype"]],
            (place["range"][1] - place["range"][0]) * ITEM_SIZE[place["dtype"]],
            place["global_flat_range"][0],
        )
        for place in known["places"]
    )


@pytest.mark.parametrize("name", ALL_NAMES)
def test_the_bytes_of_every_copy_are_those_that_the_oracle_hashed(
    name: str, checkpoint: GetTag, oracle: GetOracle
) -> None:
    tag = checkpoint(name)
    (embedding,) = inspect_tag(tag)["looked_into"]
    hashes = []
    for copy in embedding["copies"]:
        archive = Archive(tag / copy["file"])
        data = archive.read(archive.records[copy["record"]], copy["offset"], copy["offset"] + copy["length"])
        hashes.append((copy["file"], copy["kind"], hashlib.sha256(data).hexdigest()))
    assert sorted(hashes) == sorted((Path(p["file"]).name, p["kind"], p["sha256"]) for p in oracle(name)["places"])


@pytest.mark.parametrize("name", ALL_NAMES)
def test_topology_and_precision_are_the_oracles(name: str, checkpoint: GetTag, oracle: GetOracle) -> None:
    found, known = inspect_tag(checkpoint(name)), oracle(name)["layout"]
    assert found["topology"] == {"tensor": known["tp"], "pipeline": known["pp"], "data": known["dp"]}
    assert found["zero_stage"] == known["zero_stage"]
    assert found["precision"].replace("bfloat", "bf").replace("float", "fp") == known["precision"]
    assert found["tied"] == known["tied"]
    assert found["deepspeed"] == known["ds_version"]
    assert found["looked_into"][0]["shape"] == [known["padded_vocab"], known["hidden"]]
    assert found["wrapper"] in (known["optimizer_wrapper"], "none")
    assert (found["wrapper"] == "none") == known["optimizer_wrapper"].endswith("no wrapper")
    assert (found["iteration"], found["optimizer"]) == (5, "Adam")


@pytest.mark.parametrize("name", ALL_NAMES)
def test_the_whole_model_is_counted_once(name: str, checkpoint: GetTag) -> None:
    """The numbers come from summing the tensors of the layer files with torch; the others hold the same model."""
    expected = {"zero1-fp32-tied-tp2-pp2": 18944, "zero1-fp32-learnedpos-dp2": 31616}.get(name, 31232)
    found = inspect_tag(checkpoint(name))
    assert found["parameters"] == expected
    assert found["looked_into"][0]["share"] == pytest.approx(12288 / expected)


@pytest.mark.parametrize("name", ALL_NAMES)
def test_the_statistics_are_those_of_the_weights_that_training_goes_on_from(name: str, checkpoint: GetTag) -> None:
    np = pytest.importorskip("numpy")
    tag = checkpoint(name)
    (embedding,) = inspect_tag(tag)["looked_into"]
    truth = "master" if any(c["kind"] == "master" for c in embedding["copies"]) else "model"
    first = min(c["stage"] for c in embedding["copies"] if c["kind"] == truth)
    parts = []
    for copy in embedding["copies"]:
        if (copy["kind"], copy["stage"]) == (truth, first):
            archive = Archive(tag / copy["file"])
            parts.append(archive.elements(archive.records[copy["record"]], "float32", copy["offset"], copy["numel"]))
    values = np.concatenate(parts).astype(float)
    assert len(values) == 12288
    expected = [np.linalg.norm(values), values.mean(), values.std()]
    assert [embedding[key] for key in ("norm", "mean", "std")] == pytest.approx(expected, rel=1e-9)


def test_the_page_has_the_facts_that_a_person_looks_for(checkpoint: GetTag) -> None:
    tag = checkpoint(PIPELINE)
    page = render_inspection(inspect_tag(tag))
    assert page.splitlines()[:8] == [
        str(tag),
        "  iteration        5",
        "  layout           TP 2, PP 2, DP 2, ZeRO stage 1 (DeepSpeedZeroOptimizer, DeepSpeed 0.16.5)",
        "  precision        float32",
        "  optimizer        Adam",
        f"  parameters       31,232 in {sum(p.stat().st_size for p in tag.glob('*.pt')):,} bytes, embeddings untied",
        "  shared scalar    step = 5 (16 places)",
        "  0.word_embeddings.weight",
    ]
    assert "copies: 2 model, 4 master, 4 exp_avg, 4 exp_avg_sq" in page


@pytest.mark.parametrize(
    ("parameter", "places"),
    [
        ("input_embedding", ["rank 0, rows [0, 256)", "rank 1, rows [256, 512)"]),
        (
            "2.attention.dense.weight",
            ["rank 0, rows [0, 24), columns [0, 12)", "rank 1, rows [0, 24), columns [12, 24)"],
        ),
        ("2.input_layernorm.bias", ["rank 0, rows [0, 24)", "rank 1, rows [0, 24)"]),
    ],
)
def test_the_page_says_which_part_a_copy_holds(parameter: str, places: list[str], checkpoint: GetTag) -> None:
    page = render_inspection(inspect_tag(checkpoint(PIPELINE), parameter)).splitlines()
    assert [line[line.index("rank ") :] for line in page if "-model_" in line] == places


def test_a_boundary_in_the_middle_of_a_row_shows(checkpoint: GetTag) -> None:
    found = inspect_tag(checkpoint(PIPELINE))
    found["looked_into"][0]["copies"][0] |= {"start": 12, "numel": 36}
    assert "rows [0.5, 2)" in render_inspection(found)


def test_operations_are_listed_and_half_done_ones_named(checkpoint: GetTag, monkeypatch: pytest.MonkeyPatch) -> None:
    tag = checkpoint(PIPELINE)
    reset(tag, ResetRequest(number=7, seed=5))
    assert "  reset 7          seed 5, init config, 20" in render_inspection(inspect_tag(tag))

    def cut_short(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gaff.checkpoint.surgery.perform.apply", cut_short)
    with pytest.raises(KeyboardInterrupt):
        reset(tag, ResetRequest(number=8, seed=5))
    found = inspect_tag(tag)
    assert found["half_done"]
    assert "gaff surgery finish" in render_inspection(found)


def test_a_parameter_that_is_not_there_is_refused_by_name(checkpoint: GetTag) -> None:
    with pytest.raises(InputError, match="tied to the input embedding"):
        inspect_tag(checkpoint("zero1-fp32-tied-tp2-pp2"), "output_embedding")
