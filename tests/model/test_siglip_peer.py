"""Features of SigLIP against the live model of transformers."""

import dataclasses

import peers
import pytest
import torch
from small_families import SIGLIP

pytestmark = pytest.mark.slow


# Of an image of 26 pixels, in patches of 8, the last 2 are not seen.
@pytest.mark.parametrize("image_size", [24, 26])
def test_siglip_of_transformers(image_size):
    size = dataclasses.replace(SIGLIP, image_size=image_size)
    vision, text = size.vision, size.text

    def config(tower):
        return {
            "hidden_size": tower.width,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "intermediate_size": tower.mlp,
        }

    model = peers.SiglipModel(
        peers.SiglipConfig(
            vision_config=config(vision)
            | {"image_size": image_size, "patch_size": size.patch_size},
            text_config=config(text)
            | {
                "vocab_size": size.vocabulary,
                "max_position_embeddings": size.context_length,
                "projection_size": size.embedding,
            },
        )
    )
    peers.shaken(model)
    ours, frames, ids = peers.features(size, peers.transformers_siglip(model, size))
    peers.same(
        ours["vision"],
        model.vision_model(peers.pixels(frames, size.frames)).pooler_output,
    )
    peers.same(ours["text"], model.text_model(torch.tensor(ids)).pooler_output)
