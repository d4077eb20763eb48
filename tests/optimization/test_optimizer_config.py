"""The hyperparameters of a run are held to their ranges."""

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.training.config import check_config, default_values


@pytest.mark.parametrize(
    ("group", "name", "value", "says"),
    [
        ("optimizer", "learning_rate", 0.0, "above 0"),
        ("optimizer", "warmup", 1.5, "from 0 to 1"),
        ("optimizer", "weight_decay", -0.1, "from 0 to"),
        ("optimizer", "clip_norm", -1.0, "from 0 to"),
        ("optimizer", "clip_norm", float("inf"), "from 0 to"),
        ("optimizer", "context_rate", -1.0, "from 0 to"),
        ("optimizer", "beta1", 1.0, "at least 0 and below 1"),
        ("optimizer", "beta2", -0.1, "at least 0 and below 1"),
        ("prompts", "prompt_std", float("nan"), "from 0 to"),
        ("prompts", "adapter_width", 0, "from 1 to"),
        ("prompts", "text_length", -1, "from 0 to"),
        ("prompts", "joint_length", -2, "from 0 to"),
        ("prompts", "first_layer", 0, "from 1 to"),
        ("augmentation", "crop", 0.0, "above 0 and at most 1"),
        ("mesh", "data", 0, "-1, for all devices, or at least 1"),
        ("mesh", "fsdp", 0, "from 1 to"),
    ],
)
def test_a_mistake_is_named(group, name, value, says):
    values = default_values("vop")
    check_config(values)
    values[group][name] = value
    with pytest.raises(
        UserError, match=f"config.{group}.{name} is .*; it must be {says}"
    ):
        check_config(values)


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        ("zero_shot", "merge_layers", 1),
        ("zero_shot", "split_layer", 2),
        ("full", "text_length", 8),
        ("bias", "adapter", "mlp"),
        ("proj", "lora_rank", 8),
        ("partial", "fusion_layers", 1),
    ],
)
def test_a_method_of_the_backbone_adds_nothing(method, name, value):
    values = default_values(method)
    check_config(values)
    values["prompts"][name] = value
    with pytest.raises(UserError, match=f"prompts.{name} is {value}, but .*={method}"):
        check_config(values)
    # A method that trains what is added takes it, beside something of its own.
    values["prompts"]["text_length"] = 8
    check_config(values | {"method": "vop"})


def test_what_another_method_adds_is_not_a_method_s_alone():
    values = default_values("zero_shot") | {"method": "vop"}
    values["prompts"]["lora_rank"] = 8
    with pytest.raises(UserError, match=r"has lora_rank alone, but config.method=vop"):
        check_config(values)
