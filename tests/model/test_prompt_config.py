"""A prompt configuration names each of its own mistakes."""

import pytest

from data_pipelines.console.errors import UserError
from vop_jax.model.prompts.config import PromptConfig


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"first_layer": 3, "last_layer": 2}, "last_layer must not be before"),
        ({"cmm_role": "update_cls", "context_length": 2}, "context_length=1"),
        ({"text_layout": "modelscope", "last_layer": 4}, "prompts in every layer"),
    ],
)
def test_a_mistake_is_named(changes, says):
    with pytest.raises(UserError, match=f"config.prompts.*{says}"):
        PromptConfig(**changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"first_layer": 2, "last_layer": 2},
        {"cmm_role": "update_cls", "context_length": 1},
        {"text_layout": "modelscope"},
    ],
)
def test_what_is_allowed_passes(changes):
    PromptConfig(**changes).check()
