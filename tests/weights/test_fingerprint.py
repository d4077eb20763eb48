"""What identifies a model's embeddings, from one version to the next."""

import hashlib
from pathlib import Path

from vop_jax.model.clip.families import SIZES
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.weights.backbone import Backbone
from vop_jax.weights.fingerprint import fingerprint_of

BACKBONE = Backbone(SIZES["demo"], {}, "ab" * 32, Path())
# The words of the first version that had fingerprints.
FIRST = (
    "PromptConfig(text_length=0, video_length=0, position_length=0, context_length=0, "
    "joint_length=0, first_layer=1, last_layer=0, split_layer=-1, num_frames=12, "
    "text_layout='prefix', cmm='bilstm', cmm_role='prompts', adapter='', "
    "adapter_width=64, prompt_std=0.02, frame_position_std=0.02, "
    "context_forget_bias=0.0, context_fc_scale=1.0)"
)


def fingerprint(**fields):
    prompts = PromptConfig(**fields)
    return fingerprint_of(BACKBONE, {}, prompts, "float32", renormalize=False)


def test_indexes_of_the_first_version_stay_valid():
    words = f"{BACKBONE.sha256} {FIRST} False"
    assert fingerprint() == hashlib.sha256(words.encode()).hexdigest()


def test_each_choice_has_its_word():
    choices = [{}, {"lora_rank": 8}, {"lora_rank": 8, "lora_parts": "qv"}]
    choices += [{"global_length": 4}, {"global_length": 4, "postfix": True}]
    choices += [{"global_length": 4, "latent": "transformer"}]
    assert len({fingerprint(**x) for x in choices}) == len(choices)
