"""A model of videos and captions: two towers that meet in one space."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, UInt8

from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.prompts.config import BEHIND, PromptConfig
from vop_jax.model.prompts.latent import LatentPrompts
from vop_jax.model.prompts.mv_adapter import SharedVectors
from vop_jax.model.towers import TextTower, VisionTower


def normalize(features: Float[Array, "*n E"]) -> Float[Array, "*n E"]:
    """Scales each feature to length 1."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


class DualEncoder(nn.Module):
    """Both towers of a backbone, prompted or not.

    Collections: `params` holds the backbone, `prompts` what is added to it.

    Attributes:
        size: the backbone's shape.
        prompt_config: what is added to the backbone.
        compute: how the towers compute.
        renormalize_video: whether the mean over frames is scaled to length 1 again;
            the authors' released model does not.
    """

    size: ClipSize
    prompt_config: PromptConfig = PromptConfig()
    compute: ComputeConfig = ComputeConfig()
    renormalize_video: bool = False

    def on(self, device: Any) -> "DualEncoder":
        """The same model as a device, a `jax.Device`, computes it."""
        return self.clone(compute=self.compute.on(device, self.size))

    def setup(self):
        """Declares the submodules."""
        # What both towers' prompts are made from.
        self.shared = None
        if unfit := self.prompt_config.unfit(self.size):
            raise ValueError(unfit[1])
        if self.prompt_config.global_length:
            self.shared = LatentPrompts(self.prompt_config, self.size)
        self.tie = None
        if self.prompt_config.adapter == BEHIND:
            self.tie = SharedVectors()
        towers = (self.size, self.prompt_config, self.compute, self.shared, self.tie)
        self.vision = VisionTower(*towers)
        self.text = TextTower(*towers)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(jnp.log(1 / 0.07)), ()
        )
        # Read by the sigmoid loss alone, which a model without it cannot be tuned with.
        if self.size.loss == "sigmoid":
            self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def encode_videos(self, frames: UInt8[Array, "B F H W 3"]) -> Float[Array, "B E"]:
        """The mean of the video's normalised embeddings, float32.

        They are one for each frame, or the one of the first global prompt.
        """
        return self.mean(normalize(self.vision(frames)))

    def mean(self, frames: Float[Array, "B F E"]) -> Float[Array, "B E"]:
        """The embeddings of videos from those of their frames."""
        video = frames.mean(axis=1)
        return normalize(video) if self.renormalize_video else video

    def encode_texts(self, ids: Int[Array, "B N"]) -> Float[Array, "B E"]:
        """The captions' normalised embeddings, float32."""
        return normalize(self.text(ids))

    def encode_pairs(
        self, frames: UInt8[Array, "B F H W 3"], ids: Int[Array, "B N"]
    ) -> tuple[Float[Array, "B E"], Float[Array, "B E"]]:
        """The embeddings of videos and of captions."""
        return self.encode_videos(frames), self.encode_texts(ids)

    def encode_aligned(
        self,
        frames: UInt8[Array, "B F H W 3"],
        ids: Int[Array, "B N"],
        frame_ids: Int[Array, "B F M"],
    ) -> tuple[
        Float[Array, "B E"],
        Float[Array, "B E"],
        Float[Array, "B F E"],
        Float[Array, "B F E"],
    ]:
        """The embeddings of videos, captions, frames and the frames' captions."""
        of_frames = normalize(self.vision(frames))
        described = normalize(self.text.of_frames(frame_ids))
        return self.mean(of_frames), self.encode_texts(ids), of_frames, described

    def __call__(
        self, frames: UInt8[Array, "B F H W 3"], ids: Int[Array, "B N"]
    ) -> tuple[Float[Array, "B E"], Float[Array, "B E"], Float[Array, ""]]:
        """The embeddings of videos and captions, and the logit scale."""
        return *self.encode_pairs(frames, ids), self.logit_scale
