"""Number, position and initial values of what is added to the frozen CLIP."""

import dataclasses
from typing import Annotated

from data_pipelines.console.errors import UserError
from data_pipelines.console.ranges import Range
from vop_jax.model.clip.sizes import ClipSize
from vop_jax.model.prompts.text_layout import prompt_slots

# The context modelling modules, of `context`.
CMMS = ("bilstm", "lstm", "transformer")
# What generated tokens are used for, see `sources`.
CMM_ROLES = ("prompts", "update_cls")
# Where adapters are: behind the MLP, where they look at a whole video or caption (see
# `mv_adapter`), or in parallel to a part of a layer.
BEHIND = "after_mlp"
PLACES = ("attention", "mlp", BEHIND)
# The projections that LoRA can change (q, k, v), in the order of the rows of B.
LORA_PARTS = ("qkv", "q", "k", "v", "qk", "qv", "kv")
# How prompts are made from a latent, see `latent`.
LATENTS = ("linear", "transformer")
# Fields that older versions lacked -> the value that says what those did.
ADDED_PROMPT_FIELDS = {
    **{"lora_rank": 0, "lora_parts": "qkv"},
    **{"global_length": 0, "latent": "linear", "postfix": False},
    **{"fusion_layers": 0, "fusion_text_layers": 0, "fusion_width": 8},
    **{"merge_layers": 0, "merged_per_layer": 2},
    **{"merge_share_before": 0.3, "merge_share_after": 0.1},
    "adapter_words": 32,
}
# Prompts of a layer, and more layers than any tower has.
_LENGTHS, _LAYERS = Range(0, 4_096), 10_000
_SIGNED = Range(-1_000, 1_000)
# Joins by 2 and more of them than frames allow; a part of the tokens.
_JOINS, _SHARE = 13, Range(0, 1)
# Fields that change CLIP itself -> the kind of what they add; the others only say how
# these do. `split_layer` brings no parameters, and so is of no kind.
_ADDITIONS = {
    **dict.fromkeys(("text_length", "video_length", "position_length"), "prompts"),
    **dict.fromkeys(("context_length", "joint_length"), "prompts"),
    **{"split_layer": "", "global_length": "global prompts"},
    **{"adapter": "adapters", "lora_rank": "LoRA", "merge_layers": "merging"},
    **{"fusion_layers": "fusion", "fusion_text_layers": "fusion of captions"},
}


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """What is added to CLIP and where; with all lengths 0 it is CLIP itself.

    Attributes:
        text_length: number of prompts of each prompted text layer.
        video_length: number of prompts of each per-frame layer, shared by all frames.
        position_length: number of prompts specific to each frame position (P).
        context_length: number of prompts generated from the frames' context (C).
        joint_length: number of prompts of each joint layer (F).
        first_layer: the first prompted layer of both towers, counted from 1.
        last_layer: the last prompted layer, inclusive; 0, or more than a tower has,
            means the tower's last.
        split_layer: K_s, the number of layers in which each frame attends only to
            itself; later layers attend jointly over all frames. -1 means all layers (no
            joint attention).
        num_frames: F, which sizes whatever is specific to a frame position.
        text_layout: position of the text prompts: `prefix` (before the words) or
            `modelscope` (the authors' released checkpoint).
        cmm: the context modelling module: `bilstm`, `lstm` or `transformer`.
        cmm_role: use of the generated tokens: as `prompts`, or with `update_cls` the
            one generated token is added to each frame's class token.
        adapter: the part of a layer that adapters run in parallel to, `attention` or
            `mlp`, or `after_mlp` for those that look at a whole video or caption
            (MV-Adapter); empty means no adapters.
        adapter_width: W, the width of the adapters' bottleneck.
        adapter_words: the most tokens of a caption, SOT and EOT included, that adapters
            `after_mlp` have a position for; longer captions are cut.
        lora_rank: r, the rank of LoRA's change of projections; 0 means no LoRA.
        lora_parts: the projections that it changes, one of `LORA_PARTS`.
        global_length: P, the number of global prompts, which run through the vision
            tower with the frames, and of the prompts of each layer of both towers that
            are made from one latent (DGL); 0 means none of them.
        latent: how they are made from it, one of `LATENTS`.
        postfix: whether the parameters of the text prompts behind the caption are kept,
            which reach nothing.
        fusion_layers: number of the vision tower's last layers in which each frame's
            class row attends to the rows of all frames (prompts included) while its
            other rows attend within their frame; 0 means none.
        fusion_text_layers: the same of the text tower, for captions of frames: their
            EOT rows attend to the captions of all frames of a video. In training alone;
            a caption of a video passes through ordinary layers.
        fusion_width: the width of the bottleneck of what such a row finds within its
            frame (or caption) in these layers.
        merge_layers: J, number of layers of the vision tower, those before its last, in
            each of which neighbouring frames are joined and tokens merged (see
            `joins`); 0 means that no token is ever merged.
        merged_per_layer: how many tokens of each frame the layers before those merge.
        merge_share_before: the part of the tokens that a joining layer merges in front
            of its attention, class tokens counted.
        merge_share_after: the same between its attention and its MLP.
        prompt_std: standard deviation of the prompts' initial values.
        frame_position_std: standard deviation of the frame positional embedding's
            initial values.
        context_forget_bias: initial value of the context LSTM's forget gate bias.
        context_fc_scale: factor on the initial weights of the context module's output
            layer.
    """

    text_length: Annotated[int, _LENGTHS] = 0
    video_length: Annotated[int, _LENGTHS] = 0
    position_length: Annotated[int, _LENGTHS] = 0
    context_length: Annotated[int, _LENGTHS] = 0
    joint_length: Annotated[int, _LENGTHS] = 0
    first_layer: Annotated[int, Range(1, _LAYERS)] = 1
    last_layer: Annotated[int, Range(0, _LAYERS)] = 0
    split_layer: Annotated[int, Range(-1, _LAYERS)] = -1
    num_frames: Annotated[int, Range(1, 4_096)] = 12
    text_layout: str = "prefix"
    cmm: str = "bilstm"
    cmm_role: str = "prompts"
    adapter: str = ""
    adapter_width: Annotated[int, Range(1, 65_536)] = 64
    adapter_words: Annotated[int, Range(3, 4_096)] = 32
    lora_rank: Annotated[int, Range(0, 4_096)] = 0
    lora_parts: str = "qkv"
    global_length: Annotated[int, _LENGTHS] = 0
    latent: str = "linear"
    postfix: bool = False
    fusion_layers: Annotated[int, Range(0, _LAYERS)] = 0
    fusion_text_layers: Annotated[int, Range(0, _LAYERS)] = 0
    fusion_width: Annotated[int, Range(1, 65_536)] = 8
    merge_layers: Annotated[int, Range(0, _JOINS)] = 0
    merged_per_layer: Annotated[int, _LENGTHS] = 2
    merge_share_before: Annotated[float, _SHARE] = 0.3
    merge_share_after: Annotated[float, _SHARE] = 0.1
    prompt_std: Annotated[float, Range(0, 1_000)] = 0.02
    frame_position_std: Annotated[float, Range(0, 1_000)] = 0.02
    context_forget_bias: Annotated[float, _SIGNED] = 0.0
    context_fc_scale: Annotated[float, _SIGNED] = 1.0

    def check(self) -> None:
        """Checks the values that need no knowledge of the backbone.

        Raises:
            UserError: two of them do not go together.
        """
        rules = [
            (
                self.last_layer == 0 or self.last_layer >= self.first_layer,
                "config.prompts.last_layer must not be before first_layer (0: the last "
                "layer)",
            ),
            (
                self.cmm_role == "prompts" or self.context_length <= 1,
                "config.prompts.cmm_role=update_cls adds one token to each class "
                "token; set config.prompts.context_length=1",
            ),
            (
                self.text_layout == "prefix"
                or (self.first_layer == 1 and not self.last_layer),
                "config.prompts.text_layout=modelscope has prompts in every layer; "
                "leave config.prompts.first_layer at 1 and last_layer at 0",
            ),
            (
                not self.global_length or not self._own_prompts(),
                "config.prompts.global_length brings prompts of its own for every "
                "layer; leave config.prompts.text_length, video_length, "
                "position_length, context_length and joint_length at 0, split_layer at "
                "-1, first_layer at 1, last_layer at 0 and text_layout at prefix",
            ),
            (
                not self.postfix or (self.global_length and self.latent == "linear"),
                "config.prompts.postfix belongs to global prompts from a linear "
                "latent; leave it off",
            ),
            (
                not self.joint_length or self.split_layer >= 0,
                f"config.prompts.joint_length is {self.joint_length}, but with "
                "config.prompts.split_layer=-1 no layer is joint; set split_layer to "
                "the number of layers before the joint ones, or joint_length=0",
            ),
            (
                not self.fusion_layers or self.split_layer < 0,
                "config.prompts.fusion_layers lets class rows alone attend over all "
                "frames, where config.prompts.split_layer lets all rows; leave one of "
                "them out (fusion_layers=0 or split_layer=-1)",
            ),
            (
                not self.global_length
                or not (self.fusion_layers or self.fusion_text_layers),
                "config.prompts.global_length reads a global prompt, and fusion is of "
                "class rows, which nothing would then read; leave one of them out "
                "(fusion_layers=0 and fusion_text_layers=0, or global_length=0)",
            ),
            (
                not self.merge_layers or not self._of_frames(),
                "config.prompts.merge_layers joins frames, so that later layers have "
                "no rows of one frame alone; leave config.prompts.position_length, "
                "context_length, joint_length, global_length and fusion_layers at 0, "
                f"split_layer at -1 and adapter other than {BEHIND}",
            ),
            (
                not self.merge_layers or not self.num_frames % self._halved(),
                f"config.num_frames is {self.num_frames}, but config.prompts."
                f"merge_layers={self.merge_layers} joins frames by 2, but in its last "
                "layer all that are left; use a multiple of "
                f"{self._halved()}, or config.prompts.merge_layers="
                f"{joining_layers(self.merge_layers, self.num_frames)}",
            ),
            (
                self.adapter != BEHIND or self._every_layer_alike(),
                f"config.prompts.adapter={BEHIND} looks at the rows of each frame in "
                "every layer, and at the words alone; leave config.prompts.split_layer "
                "at -1, global_length and last_layer at 0, first_layer at 1 and "
                "text_layout at prefix",
            ),
            (
                self.adapter != BEHIND or self.adapter_width % 2 == 0,
                f"config.prompts.adapter_width must be even with adapter={BEHIND}, "
                "whose layer has two heads",
            ),
        ]
        for holds, message in rules:
            if not holds:
                raise UserError(message)

    def additions(self) -> dict[str, int | str]:
        """The fields that change CLIP, as far as they differ from the defaults."""
        values = {name: getattr(self, name) for name in _ADDITIONS}
        return {k: v for k, v in values.items() if v != getattr(PromptConfig, k)}

    def kinds(self) -> set[str]:
        """The kinds of what is added to CLIP."""
        return {_ADDITIONS[name] for name in self.additions()} - {""}

    def _own_prompts(self) -> bool:
        """Whether there are VoP's prompts, or a choice of where they are."""
        lengths = self.text_length, self.video_length, self.position_length
        return bool(
            any((*lengths, self.context_length, self.joint_length, self.last_layer))
            or self.first_layer > 1
            or self.split_layer >= 0
            or self.text_layout != "prefix"
        )

    def _of_frames(self) -> bool:
        """Whether anything is specific to a frame, or lets frames see each other."""
        lengths = self.position_length, self.context_length, self.joint_length
        across = self.global_length, self.fusion_layers, self.adapter == BEHIND
        return any((*lengths, *across)) or self.split_layer >= 0

    def _halved(self) -> int:
        """By how much the frames are fewer in front of the last join."""
        return 2 ** (self.merge_layers - 1)

    def joins(self) -> tuple[int, ...]:
        """How many neighbours each joining layer joins: 2, then all that are left."""
        if not self.merge_layers:
            return ()
        return (*(2,) * (self.merge_layers - 1), self.num_frames // self._halved())

    def _every_layer_alike(self) -> bool:
        """Whether all layers hold each frame's rows and the words, and nothing else."""
        return (
            (self.split_layer, self.global_length, self.text_layout)
            == (-1, 0, "prefix")
        ) and (self.first_layer, self.last_layer) == (1, 0)

    def unfit(self, size: ClipSize) -> tuple[str, str] | None:
        """The field that cannot be used with a backbone, and why; None if all can.

        The reason is the end of a sentence.
        """
        if self.global_length and not size.reads_class_token:
            return "global_length", (
                "this backbone's vision tower does not read a class token, in whose "
                "place the first global prompt is read"
            )
        if self.global_length and size.full_captions:
            return "global_length", (
                "this backbone's text tower does not read the EOT token, or also looks "
                "behind it, where prompts would not be without effect"
            )
        if self.fusion_layers and not size.vision.class_token:
            return "fusion_layers", (
                "this backbone's frames have no class token to attend across frames"
            )
        if self.merge_layers and not size.reads_class_token:
            return "merge_layers", (
                "this backbone's vision tower does not read the class token alone, and "
                "all other tokens are merged"
            )
        if self.merge_layers and size.vision.rotary is not None:
            return "merge_layers", (
                "this backbone turns each patch by its place in the frame, and a "
                "merged token has none"
            )
        if self.merge_layers >= size.vision.layers:
            return "merge_layers", (
                f"this backbone's vision tower has {size.vision.layers} layers, of "
                "which the last joins no frames"
            )
        if self.adapter == BEHIND and not size.vision.class_token:
            return "adapter", (
                "this backbone's frames have no class token to look at other frames"
            )
        if self.adapter == BEHIND and size.full_captions:
            return "adapter", (
                "this backbone's text tower does not read the EOT token, or also looks "
                "behind it, where words have no position"
            )
        return None

    def split(self, layers: int) -> int:
        """K_s for a tower of that many layers."""
        return layers if self.split_layer < 0 else self.split_layer

    def text_slots(self, context_length: int) -> list[int]:
        """The positions of the text sequence that hold prompts; none with `prefix`."""
        return prompt_slots(self.text_layout, self.text_length, context_length)

    def caption_length(self, context_length: int) -> int:
        """The most tokens a caption may have, SOT and EOT included."""
        most = context_length - len(self.text_slots(context_length))
        return min(most, self.adapter_words) if self.adapter == BEHIND else most

    def bound_to_frames(self, layers: int) -> bool:
        """Whether any parameter is specific to a frame position, which fixes F."""
        learned = self.context_length and self.cmm == "transformer"
        made = self.global_length and self.latent == "transformer"
        placed = self.adapter == BEHIND or self.merge_layers
        specific = self.position_length or learned or made or placed
        return bool(specific or self.split(layers) < layers)

    def prompted(self, layers: int) -> tuple[int, int]:
        """The half-open range of prompted layers, counted from 0."""
        return self.first_layer - 1, min(self.last_layer or layers, layers)


def joining_layers(most: int, num_frames: int) -> int:
    """The most layers, up to a number, that can join so many frames by 2 each.

    The last of them joins all that are left, so one layer joins any number.
    """
    count = most
    while count > 1 and num_frames % 2 ** (count - 1):
        count -= 1
    return count
