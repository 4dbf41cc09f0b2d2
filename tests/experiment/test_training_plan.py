import jax
import numpy as np
import pytest

from jaxtl.errors import UserError
from jaxtl.experiment.build import build
from jaxtl.experiment.training_plan import make_plan
from jaxtl.finetune.param_groups import FROZEN


def plan_of(config, **keys):
    for key, value in keys.items():
        section, name = key.split("__")
        config[section][name] = value
    return build(config, abstract=True).plan


def test_the_head_alone_trains(config):
    plan = plan_of(config, finetune__unfreeze="head")
    assert {path: group for path, group in plan.labels.items() if group != FROZEN} == {
        "head/bias": "head",
        "head/kernel": "head",
    }
    assert plan.counts == {"total": 9_827, "trainable": 51, "frozen": 9_776}
    assert (plan.total_steps, len(plan.stages), plan.notes) == (3, 1, ())


def test_a_new_head_trains_whatever_else_does(config):
    plan = plan_of(config, finetune__unfreeze="block0")
    assert plan.labels["head/kernel"] == "head"
    assert plan.labels["block0/mlp/fc1/kernel"] == "block0"
    assert plan.notes == ("finetune.unfreeze 'block0' leaves out the head, which is new: it trains too",)


def test_rates_fall_towards_the_input_and_rules_replace_them(config):
    plan = plan_of(
        config,
        finetune__layer_decay=0.5,
        finetune__groups={"block0": {"learning_rate": 0.2}},
        optimizer__schedule="constant",
    )
    # head, block1, block0, embed: 1, 1/2, 1/4 and 1/8 of 0.01, but block0 from 0.2.
    assert plan.peak("head/kernel", 0.01) == pytest.approx(0.01)
    assert plan.peak("block1/mlp/fc1/kernel", 0.01) == pytest.approx(0.005)
    assert plan.peak("block0/mlp/fc1/kernel", 0.01) == pytest.approx(0.05)
    assert plan.peak("pos_embed", 0.01) == pytest.approx(0.00125)
    rule = plan.overrides["block0/mlp/fc1/kernel"]
    assert float(rule.learning_rate(0)) == pytest.approx(0.2)
    assert rule.name == "adamw"
    assert "head/kernel" not in plan.overrides


def test_stages_follow_each_other_and_restart_the_schedule(config):
    stages = ({"steps": 2, "unfreeze": "head"}, {"epochs": 2, "unfreeze": "all", "rate": 0.1})
    config.finetune.stages, config.train.steps, config.optimizer.warmup_steps = stages, 0, 1
    experiment = build(config)
    plan = experiment.plan
    assert [(stage.start, stage.stop, stage.rate) for stage in plan.stages] == [(0, 2, 1.0), (2, 8, 0.1)]
    assert plan.labels["pos_embed"] == "embed"
    # One step of warm-up in each stage.
    np.testing.assert_allclose([plan.schedule(step) for step in (0, 2)], [0.01 * 1.0, 0.1 * 0.01], rtol=1e-6)


def test_a_warm_up_longer_than_the_run_is_an_error(config):
    with pytest.raises(UserError, match=r"optimizer.warmup_steps is 3, but the run has 3 steps: give fewer"):
        plan_of(config, optimizer__warmup_steps=3)


def test_a_rule_that_fits_nothing_is_an_error(config):
    with pytest.raises(UserError, match=r"finetune.groups: 'blok' fits no group and no parameter"):
        plan_of(config, finetune__groups={"blok": {"learning_rate": 0.2}})


def test_blocks_that_train_alike_are_scanned_together(config):
    config.model.name, config.model.scan = "vit_petals:depth=4,width=16,heads=2,patch=8", True
    assert plan_of(config).scanned == ("block0-2",)
    assert plan_of(config, finetune__unfreeze=2).scanned == ("block0-1",)


def test_a_plan_is_the_same_from_arrays_and_from_shapes(config):
    experiment = build(config)
    shapes = jax.eval_shape(lambda tree: tree, experiment.variables)
    again = make_plan(config, experiment.model.module, shapes["params"], steps_per_epoch=3.0, new_head=True)
    assert (again.shapes, again.stages) == (experiment.plan.shapes, experiment.plan.stages)
