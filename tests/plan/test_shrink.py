# SPDX-License-Identifier: Apache-2.0
"""The rehearsal of a config: small, and of the same shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gaff.plan.checks import check
from gaff.plan.config import Config, load_config
from gaff.plan.plan import Plan, build_plan
from gaff.plan.shrink import shrink
from gaff.trainers.bundled.support import unsupported

Write = Callable[..., Path]
CONFIGS = Path(__file__).parents[2] / "neox_configs"
GIVEN: dict[str, Any] = {
    "iterations": 400,
    "resets": 3,
    "ranks": 2,
    "data_path": Path("/corpus/text"),
    "vocab_file": Path("/corpus/tokenizer.json"),
    "vocab_size": 2048,
    "save": Path("/run/checkpoints"),
}


def pythia(*overrides: str, name: str = "70m") -> Config:
    return load_config([CONFIGS / f"pythia-{name}.yml"], overrides)


def plan_of(config: Config, **given: Any) -> Plan:
    return build_plan(shrink(config, **{**GIVEN, **given})[0])


def reset_iterations(plan: Plan) -> list[int]:
    return [reset.iteration for reset in plan.resets]


def test_pythia_becomes_400_iterations_with_resets_after_100_200_and_300() -> None:
    assert reset_iterations(plan_of(pythia())) == [100, 200, 300]


@pytest.mark.parametrize("name", ["14m", "31m", "70m", "160m", "410m", "1b"])
def test_every_shipped_config_has_a_sound_rehearsal(name: str) -> None:
    small, said = shrink(pythia(name=name), **GIVEN, precision="bfloat16")
    assert check(small, files=False) == []
    assert small.gaff.trainer == "bundled"
    plan = build_plan(small)
    assert len(plan.resets) == 3
    model = small.get("num_layers"), small.get("hidden_size"), small.get("num_attention_heads")
    assert model == (4, 128, 4)
    assert any(sentence.startswith("hidden_size ") == (name != "14m") for sentence in said)


SHAPES = [
    (train_iters, every, first, last)
    for train_iters, every in ((400, 100), (1000, 90), (143000, 1000), (5000, 1200), (40, 9))
    for first in (None, every // 2, 3 * every)
    for last in (None, 3 * every)
]


@pytest.mark.parametrize(("train_iters", "every", "first", "last"), SHAPES)
@pytest.mark.parametrize(("iterations", "resets"), [(400, 3), (97, 3), (1000, 7), (30, 4)])
def test_the_shape_of_the_schedule_is_kept(
    train_iters: int, every: int, first: int | None, last: int | None, iterations: int, resets: int
) -> None:
    config = pythia(
        f"train_iters={train_iters}",
        f"gaff.reset_every={every}",
        f"gaff.first_reset={first or ''}",
        f"gaff.last_reset={last or ''}",
    )
    original = build_plan(config).segments
    small, _ = shrink(config, **{**GIVEN, "iterations": iterations, "resets": resets})
    segments = build_plan(small).segments
    assert segments[-1].stop == iterations
    assert len(segments) == resets + 1
    normal = small.gaff.reset_every
    assert normal is not None
    if original[-1].iterations >= every:
        assert segments[-1].iterations >= normal
    if original[0].iterations == every:
        assert segments[0].iterations == normal
    if original[0].iterations > every:
        assert segments[0].iterations >= normal
    log = small.get("log_interval")
    assert all(segment.stop % log == 0 for segment in segments[:-1])


def test_a_baseline_stays_a_baseline() -> None:
    plan = plan_of(pythia("gaff.reset_every=never"))
    assert plan.resets == ()
    assert plan.train_iters == 400


def test_learning_rate_keeps_its_values_and_its_fractions() -> None:
    config = pythia("lr_decay_iters=71500", "warmup=0.02")
    small, _ = shrink(config, **GIVEN)
    assert small.get("lr_decay_iters") == 200
    for key in ("warmup", "min_lr", "optimizer", "lr_decay_style"):
        assert small.get(key) == config.get(key)


@pytest.mark.parametrize(
    ("pipe", "ranks", "expected"), [(1, 2, 1), (4, 2, 2), (4, 4, 4), (3, 2, 2), (8, 8, 4), (0, 2, 0)]
)
def test_pipeline_is_kept_as_far_as_the_ranks_allow(pipe: int, ranks: int, expected: int) -> None:
    small, _ = shrink(pythia(f"pipe_parallel_size={pipe}", "num_layers=8"), **{**GIVEN, "ranks": ranks})
    assert small.get("pipe_parallel_size") == expected
    assert small.get("global_num_gpus") == ranks
    assert ranks % max(1, expected) == 0


def test_tensor_parallelism_goes_to_one_and_is_said() -> None:
    small, said = shrink(pythia("model_parallel_size=2"), **GIVEN)
    assert small.get("model_parallel_size") == 1
    assert "model_parallel_size 2 -> 1" in said


@pytest.mark.parametrize(("stage", "expected"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_the_zero_stage_is_kept_as_far_as_the_bundled_trainer_has_it(stage: int, expected: int) -> None:
    small, said = shrink(pythia(f"zero_optimization.stage={stage}", "pipe_parallel_size=0"), **GIVEN)
    assert small.get("zero_optimization.stage") == expected
    assert ("ZeRO stage 3 -> 2" in said) == (stage == 3)
    assert not any("pipe_parallel_size" in sentence for sentence in said)


@pytest.mark.parametrize("layout", [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1)])
def test_the_bundled_trainer_takes_the_rehearsal_of_every_layout(layout: tuple[int, int]) -> None:
    pipe, stage = layout
    config = pythia(f"pipe_parallel_size={pipe}", f"zero_optimization.stage={stage}")
    small, _ = shrink(config, **GIVEN, precision="bfloat16")
    assert unsupported(small.neox) == []
    assert check(small, files=False) == []


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("input_embedding", ("input_embedding",)),
        ("output_embedding", ("output_embedding",)),
        ("'*.attention.dense.weight'", ("*.attention.dense.weight",)),
        ("'*norm*'", ("*norm*",)),
        ("2.mlp.linear1.weight", ("2.mlp.linear1.weight",)),
        # 24 layers become 4: layers 2 to 25 -> 2 to 5, norm 27 -> 7, head 28 -> 8
        ("25.mlp.linear1.weight", ("5.mlp.linear1.weight",)),
        ("8.mlp.linear1.weight", ("3.mlp.linear1.weight",)),
        ("27.norm.weight", ("7.norm.weight",)),
        ("28.final_linear.weight", ("8.final_linear.weight",)),
        ("'2[0-5].mlp.linear1.weight'", ("5.mlp.linear1.weight",)),
        ("'1?.mlp.linear1.*'", tuple(f"{n}.mlp.linear1.{part}" for n in (3, 4) for part in ("weight", "bias"))),
        ("['7.*norm.bias', input_embedding]",
         ("2.input_layernorm.bias", "2.post_attention_layernorm.bias", "input_embedding")),
    ],
)  # fmt: skip
def test_what_is_forgotten_keeps_its_kind_and_depth(chosen: str, expected: tuple[str, ...]) -> None:
    config = pythia(f"gaff.parameters={chosen}", name="410m")
    small, said = shrink(config, **GIVEN)
    assert small.gaff.parameters == expected
    assert check(small, files=False) == []
    assert any(sentence.startswith("parameters ") for sentence in said) == (expected != config.gaff.parameters)


def test_values_from_a_file_do_not_fit_and_are_replaced() -> None:
    small, said = shrink(pythia("gaff.init=/new.safetensors"), **GIVEN)
    assert str(small.gaff.init) == "matched"
    assert "init /new.safetensors -> matched" in said


def test_precision_is_kept_unless_another_is_asked_for() -> None:
    kept, _ = shrink(pythia(), **GIVEN)
    assert kept.get("fp16.enabled") is True
    changed, said = shrink(pythia(), **GIVEN, precision="bfloat16")
    assert changed.get("precision") == "bfloat16"
    assert "fp16" not in changed.neox
    assert changed.get("data_types.grad_accum_dtype") == "fp32"
    assert "precision fp16 -> bfloat16" in said


def test_data_tokenizer_and_checkpoints_are_replaced() -> None:
    config = pythia("data_path=", "train_data_paths=[a]", "valid_data_paths=[b]", "test_data_paths=[c]", "hostfile=h")
    small, said = shrink(config, **GIVEN)
    assert small.get("data_path") == "/corpus/text"
    assert small.get("vocab_file") == "/corpus/tokenizer.json"
    assert small.get("save") == "/run/checkpoints"
    assert not {"train_data_paths", "valid_data_paths", "test_data_paths", "hostfile"} & set(small.neox)
    assert "data and tokenizer replaced, vocabulary of 2,048 tokens" in said
    assert shrink(config, **{**GIVEN, "vocab_file": None})[0].get("tokenizer_type") == "CharLevelTokenizer"


def test_attention_kinds_and_mlp_width_follow_the_layers() -> None:
    mixed = "attention_config=[[[flash, global], 3]]"
    small, _ = shrink(pythia(mixed, "intermediate_size=1408", "activation=swiglu", "num_kv_heads=2"), **GIVEN)
    assert small.get("attention_config") == [[["flash", "global", "flash", "global"], 1]]
    assert small.get("intermediate_size") == 336
    assert small.get("num_kv_heads") == 1
    assert shrink(pythia(), **GIVEN)[0].get("attention_config") == [[["flash"], 4]]


def test_what_is_small_already_is_left_alone(write: Write) -> None:
    config = load_config([write()])
    small, said = shrink(config, **GIVEN)
    for key in ("num_layers", "hidden_size", "num_attention_heads", "seq_length", "log_interval"):
        assert small.get(key) == config.get(key)
    assert said == (
        "data and tokenizer replaced, vocabulary of 2,048 tokens",
        "restarts of a trainer that fails: at most 2, after a second or two",
    )


def test_saves_shrink_with_the_segments() -> None:
    small, _ = shrink(pythia("extra_save_iters=[0,1,2,4,8,16,32,64,128,256,512,9999999]"), **GIVEN)
    assert small.get("checkpoint_factor") == 100
    assert small.get("extra_save_iters") == [0, 26, 51]


def test_the_original_config_is_not_touched() -> None:
    config = pythia()
    before = config.to_yaml()
    shrink(config, **GIVEN, precision="fp32")
    assert config.to_yaml() == before


def on_neox(*overrides: str, name: str = "70m", ranks: int = 2) -> Config:
    given = {**GIVEN, "ranks": ranks, "trainer": "neox", "device": "cpu-beside-gpus"}
    return shrink(pythia(*overrides, name=name), **given)[0]


def test_gpt_neox_rehearses_without_what_needs_a_gpu() -> None:
    small = on_neox("norm=te_layernorm", "rope_fusion=true")
    assert small.get("attention_config") == [[["global"], 4]]
    flags = ("scaled_upper_triang_masked_softmax_fusion", "rope_fusion")
    assert [small.get(key) for key in (*flags, "norm")] == [False, False, "layernorm"]
    assert (small.gaff.trainer, small.gaff.device) == ("neox", "cpu-beside-gpus")
    assert small.get("fp16.enabled") is True, "the shim has fp16"
    _, told = shrink(pythia("rope_fusion=true"), **{**GIVEN, "trainer": "neox"})
    assert "attention flash -> global" in told
    assert "without a GPU: scaled_upper_triang_masked_softmax_fusion, rope_fusion" in told


def test_gpt_neox_keeps_zero_3_where_the_bundled_trainer_takes_2() -> None:
    changes = ("pipe_parallel_size=0", "zero_optimization.stage=3")
    assert on_neox(*changes).get("zero_optimization.stage") == 3
    assert shrink(pythia(*changes), **GIVEN)[0].get("zero_optimization.stage") == 2


@pytest.mark.parametrize(
    ("tensor", "stages", "ranks", "expected"),
    [
        (1, 1, 2, (1, 1)),
        (1, 0, 2, (1, 0)),
        (2, 1, 2, (2, 1)),
        (4, 0, 2, (2, 0)),
        (1, 4, 2, (1, 2)),
        (8, 2, 4, (2, 2)),
        (2, 2, 8, (2, 2)),
        (2, 2, 2, (2, 1)),
        (4, 4, 3, (1, 3)),
    ],
)
def test_tensor_and_pipeline_ranks_are_the_most_that_fit(
    tensor: int, stages: int, ranks: int, expected: tuple[int, int]
) -> None:
    small = on_neox(f"model_parallel_size={tensor}", f"pipe_parallel_size={stages}", ranks=ranks)
    assert (small.get("model_parallel_size"), small.get("pipe_parallel_size")) == expected
    assert check(small, files=False) == []


def test_machines_and_images_of_the_cluster_are_left_out() -> None:
    small = on_neox("gaff.container={engine: apptainer, image: x.sif}", "gaff.environment={NCCL_DEBUG: INFO}")
    assert (small.gaff.container, small.gaff.environment) == (None, ())


def test_a_decay_that_begins_anew_with_each_reset_shrinks_as_the_segments_do() -> None:
    given = {**GIVEN, "iterations": 400}
    small = shrink(pythia("gaff.lr_schedule=restart", "lr_decay_iters=500"), **given)[0]
    assert (small.gaff.reset_every, small.get("lr_decay_iters")) == (100, 50), "half a segment, as in k = 1000"
    assert shrink(pythia(), **given)[0].get("lr_decay_iters") == 400


@pytest.mark.parametrize(("every", "expected"), [(2000, 200), (4000, 400), (1500, 150), (50000, None)])
def test_tags_that_stay_shrink_with_the_segments(every: int, expected: int | None) -> None:
    keep = f"gaff.keep={{newest: 2, every: {every}}}"
    small, told = shrink(pythia(keep, "checkpoint_factor="), **GIVEN)
    assert (small.gaff.keep.newest, small.gaff.keep.every) == (2, expected)
    assert f"keep.every {every} -> {expected or 'none'}" in told
    assert "keeps no tag" not in " ".join(map(str, build_plan(small).warnings))


def test_a_slow_laptop_is_no_alarm_and_a_rehearsal_tells_nobody() -> None:
    watch = "gaff.watch={silence_minutes: 2, on_slow: stop, restarts: 5, on_nan: stop}"
    small, told = shrink(pythia(watch, "gaff.notify=sbatch next.sh"), **GIVEN)
    found = small.gaff.watch
    assert (found.silence_minutes, found.on_slow, found.restarts, found.backoff_seconds) == (30.0, "warn", 2, 1.0)
    assert (found.on_nan, small.gaff.notify) == ("stop", None)
    assert {"watch.silence_minutes 2 -> 30", "watch.on_slow stop -> warn", "notify: nobody is told"} <= set(told)


def test_a_watchdog_that_is_off_stays_off() -> None:
    small, _ = shrink(pythia("gaff.watch={silence_minutes: never, restarts: 0}"), **GIVEN)
    assert (small.gaff.watch.silence_minutes, small.gaff.watch.restarts) == (None, 0)
