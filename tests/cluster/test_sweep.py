# SPDX-License-Identifier: Apache-2.0
"""Sweeps: which runs they make, and how those are called."""

from __future__ import annotations

import pytest

from gaff.cluster.sweep import variants
from gaff.errors import InputError


def told(*sweeps: str) -> str:
    with pytest.raises(InputError) as caught:
        variants(sweeps)
    [problem] = caught.value.problems
    return problem.what


def test_no_sweep_makes_no_variants() -> None:
    assert variants([]) == ()


def test_one_run_for_each_value_in_the_order_given() -> None:
    made = variants(["gaff.reset_every=500,2000,1000"])
    assert [one.overrides for one in made] == [
        ("gaff.reset_every=500",),
        ("gaff.reset_every=2000",),
        ("gaff.reset_every=1000",),
    ]
    assert [one.name for one in made] == ["reset_every=500", "reset_every=2000", "reset_every=1000"]


def test_sweeps_are_multiplied_the_last_changing_fastest() -> None:
    made = variants(["gaff.reset_every=500,1000", "seed=1,2,3"])
    assert [one.name for one in made] == [f"reset_every={k},seed={s}" for k in (500, 1000) for s in (1, 2, 3)]
    assert made[4].overrides == ("gaff.reset_every=1000", "seed=2")
    assert len({one.name for one in made}) == 6


def test_names_are_whole_keys_where_their_last_parts_are_the_same() -> None:
    made = variants(["gaff.seed=1,2", "seed=1"])
    assert [one.name for one in made] == ["gaff.seed=1,seed=1", "gaff.seed=2,seed=1"]


def test_blanks_around_keys_and_values_mean_nothing() -> None:
    assert variants([" gaff.reset_every = 500 , 1000 "]) == variants(["gaff.reset_every=500,1000"])


@pytest.mark.parametrize("values", ["0.1,2.5e-4,1.0e+3", "config,matched,step0", "-1,2"])
def test_values_of_numbers_and_words(values: str) -> None:
    assert [one.overrides for one in variants([f"key={values}"])] == [(f"key={value}",) for value in values.split(",")]


def test_values_with_a_colon_as_gaff_init_has_them() -> None:
    made = variants(["gaff.init=normal:0.02,uniform:0.1"])
    assert [one.overrides for one in made] == [("gaff.init=normal:0.02",), ("gaff.init=uniform:0.1",)]
    assert len({one.name for one in made}) == 2
    assert not any(":" in one.name for one in made)  # a bind mount of a container would end there


def test_two_values_that_make_one_name() -> None:
    assert "two runs of one name" in told("gaff.init=normal:1,normal-1")


@pytest.mark.parametrize(
    "sweep", ["", "seed", "seed=", "=1,2", "seed=1,,2", "seed=1,", "seed=a b", "seed=../x", "k=$x"]
)
def test_malformed_sweeps_are_quoted_back(sweep: str) -> None:
    assert told(sweep) == f"`--sweep {sweep}` is not of the form KEY=VALUE,VALUE"


def test_a_value_twice() -> None:
    assert told("seed=1,2,1") == "`--sweep seed=1,2,1` names a value twice"


@pytest.mark.parametrize("second", ["seed=3", " seed =3"])
def test_a_key_twice(second: str) -> None:
    assert told("seed=1,2", second) == f"`--sweep {second}` names a key that another sweep has"


def test_a_key_twice_in_both_spellings() -> None:
    assert "that another sweep has" in told("gaff.reset_every=1,2", "gaff.reset-every=3,4")


def test_a_sweep_that_no_array_takes() -> None:
    hundred = ",".join(map(str, range(100)))
    assert len(variants([f"a={hundred}", "b=1,2,3,4,5,6,7,8,9,10"])) == 1000
    assert "makes 1100 runs" in told(f"a={hundred}", "b=1,2,3,4,5,6,7,8,9,10,11")
