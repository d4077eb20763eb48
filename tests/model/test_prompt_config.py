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
        *(
            ({"global_length": 4, **beside}, "global_length brings prompts of its own")
            for beside in (
                *({f"{kind}_length": 1} for kind in ("text", "video", "position")),
                {"context_length": 1},
                {"split_layer": 2},
                {"first_layer": 2},
                {"last_layer": 2},
                {"text_layout": "modelscope"},
            )
        ),
        ({"joint_length": 8}, "joint_length is 8, but with .*split_layer=-1 no layer"),
        ({"postfix": True}, "postfix belongs to global prompts"),
        ({"global_length": 4, "latent": "transformer", "postfix": True}, "a linear"),
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
        # The last of a study's numbers of layers before the joint ones: all of them.
        {"joint_length": 8, "split_layer": 12},
        {"global_length": 4, "postfix": True},
        {"global_length": 4, "latent": "transformer"},
        {"global_length": 4, "lora_rank": 2, "adapter": "mlp"},
    ],
)
def test_what_is_allowed_passes(changes):
    PromptConfig(**changes).check()
