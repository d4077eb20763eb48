"""A tuned file that lost a part as a whole, or one that no configuration could give."""

import json

import numpy as np
import pytest
import safetensors.numpy

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.families import SIZES
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.weights.tuned import load_tuned, read_tuned, write_tuned
from vop_jax.weights.tuned_metadata import metadata_of
from vop_jax.weights.tuned_prompts import prompt_config

SIZE = SIZES["demo"]
LORA = {
    "lora.vision.A": (4, 2, 64),
    "lora.vision.B": (4, 192, 2),
    "lora.text.A": (3, 2, 64),
    "lora.text.B": (3, 192, 2),
}
MERGE = {"merge.positions.0": (8, 64)}
FUSION = {"fusion.down.weight": (1, 8, 64)}
TEMPME = PromptConfig(lora_rank=2, merge_layers=1, merged_per_layer=5, num_frames=8)
IVFUSION = PromptConfig(lora_rank=2, lora_parts="qv", fusion_layers=1)
DGL = PromptConfig(global_length=4, lora_rank=2)


def metadata(config):
    return metadata_of("tempme", config, SIZE.vision.layers, None)


def test_counts_are_stated_and_nothing_else():
    stated = metadata(TEMPME)
    assert {"lora_rank", "merge_layers", "merged_per_layer"} < stated.keys()
    assert not [name for name in stated if "fusion" in name or "global" in name]
    assert prompt_config(LORA | MERGE, stated, SIZE, "FILE").merge_layers == 1
    # What changes nothing has no word.
    idle = PromptConfig(lora_parts="q", merged_per_layer=5)
    assert metadata(idle).keys() == metadata(PromptConfig()).keys()
    # Converted files of others state no counts.
    bare = metadata(PromptConfig(num_frames=8))
    assert prompt_config(LORA | MERGE, bare, SIZE, "FILE").lora_rank == 2


@pytest.mark.parametrize(
    ("shapes", "config", "says"),
    [
        (LORA, TEMPME, "merge_layers 1, but its tensors are for 0"),
        (MERGE, TEMPME, "lora_rank 2, but its tensors are for 0"),
        (LORA, IVFUSION, "fusion_layers 1, but its tensors are for 0"),
        (FUSION, IVFUSION, "lora_rank 2, but its tensors are for 0"),
        (LORA, DGL, "global_length 4, but its tensors are for 0"),
    ],
)
def test_a_part_that_is_lost_is_missed(shapes, config, says):
    with pytest.raises(UserError, match=rf"^FILE: its metadata states {says}"):
        prompt_config(shapes, metadata(config), SIZE, "FILE")


@pytest.mark.parametrize(
    ("shapes", "stated", "says"),
    [
        (LORA, {"merged_per_layer": 5}, "no tensor of merge_layers"),
        (LORA, {"merge_share_after": 0.2}, "no tensor of merge_layers"),
        (MERGE, {"lora_parts": "qv"}, "no tensor of lora_rank"),
    ],
)
def test_metadata_of_nothing_is_refused(shapes, stated, says):
    bare = metadata(PromptConfig(num_frames=8))
    with pytest.raises(UserError, match=says):
        prompt_config(shapes, bare | stated, SIZE, "FILE")


@pytest.mark.parametrize(
    ("width", "words", "says"),
    [
        (8, 2, "adapter_words is 2; it must be from 3"),
        (8, 1, "adapter_words is 1; it must be from 3"),
        (0, 8, "adapter_width is 0; it must be from 1"),
    ],
)
def test_a_file_keeps_to_the_ranges_of_a_configuration(width, words, says):
    shapes = {
        "adapters.vision.after_mlp.down.weight": (4, width, 64),
        "adapters.text.after_mlp.down.weight": (3, width, 64),
        "adapters.text.after_mlp.positions": (3, words, 64),
    }
    bare = metadata(PromptConfig(num_frames=8))
    with pytest.raises(
        UserError, match=f"^FILE: its tensors say that config.prompts.{says}"
    ) as error:
        prompt_config(shapes, bare, SIZE, "FILE")
    assert "\n" not in str(error.value)


def test_the_number_of_tensors_is_stated(tmp_path):
    """It alone misses weights of the backbone that were tuned."""
    path = tmp_path / "tuned.safetensors"
    name = "text_model.final_layer_norm.{}".format
    biases = {name(x): np.zeros(64, np.float32) for x in ("weight", "bias")}
    write_tuned(path, biases, metadata(PromptConfig()) | {"method": "full"})
    named, stated = read_tuned(path)
    assert stated["tensors"] == 2
    assert len(load_tuned(path, SIZE, None).leaves) == 2
    del named[name("bias")]
    # A writer of other tensors states their number.
    write_tuned(path, named, stated)
    assert read_tuned(path)[1]["tensors"] == 1
    text = {"vop_jax": json.dumps(stated)}
    safetensors.numpy.save_file(named, path, metadata=text)
    with pytest.raises(UserError, match="tensors is 1, but its metadata states 2"):
        load_tuned(path, SIZE, None)
