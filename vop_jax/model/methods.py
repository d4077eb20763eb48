"""The table of methods: what each adds to CLIP and which parameters it trains.

It is data alone; `trained` applies it to a model's parameters.
"""

import dataclasses
import re
from collections.abc import Iterable

from data_pipelines.console.errors import UserError
from data_pipelines.console.names import pick
from vop_jax.model.prompts.config import PromptConfig, joining_layers

# Patterns of all backbone parameters; each matches some parameter of every backbone. A
# leaf of `params` that matches none of them is an error: otherwise a new parameter
# would be frozen by accident.
BACKBONE = (
    r"params/(vision|text)/(layers|last_layer)/(attention|mlp|ln_[12])/.*",
    r"params/(vision|text)/(ln_pre|ln_post|ln_final)/.*",
    r"params/(vision|text)/(position_embedding|projection|projection_bias)",
    r"params/vision/(class_embedding|patch_embedding|patch_bias|pooling/.*)",
    r"params/text/token_embedding",
    r"params/logit_(scale|bias)",
)
_PROMPTS = (r"prompts/.*",)
# Of a vision tower in which every method adds all that it has.
_LAYERS = 12
# Begins a pattern of what is added to the backbone.
_ADDED = "prompts/"


@dataclasses.dataclass(frozen=True)
class Method:
    """A method: a row of the paper's Table 1.

    Attributes:
        trained: patterns of the parameters that train; a parameter may match only one.
        text_length: prompts of each text layer.
        video_length: prompts shared by all frames of each per-frame layer.
        position_length: prompts of each frame position (P).
        context_length: prompts generated from the frames' context (C).
        joint_layers: whether the last third of the layers attends jointly (F).
        adapter: where adapters are, see `PromptConfig`; empty means no adapters.
        lora_rank: rank of the change of the query, key and value projections.
        global_length: global prompts, and prompts of each layer from one latent.
        latent: how those are made from it.
        fusion: whether the class rows of the last third of the vision layers attend
            across frames.
        fusion_text_layers: the last text layers in which captions of frames do so.
        merging: whether tokens are merged and frames joined.
        loss: the default of `config.loss`; empty means that of the data set.
        renormalize_video: the default of `config.renormalize_video`.
        about: one line that helps a user choose a method.
    """

    trained: tuple[str, ...] = ()
    text_length: int = 0
    video_length: int = 0
    position_length: int = 0
    context_length: int = 0
    joint_layers: bool = False
    adapter: str = ""
    lora_rank: int = 0
    global_length: int = 0
    latent: str = "linear"
    fusion: bool = False
    fusion_text_layers: int = 0
    merging: bool = False
    loss: str = ""
    renormalize_video: bool = False
    about: str = ""

    def prompt_config(self, layers: int, num_frames: int = 12) -> PromptConfig:
        """The method's prompts for a vision tower of that many layers.

        The last third of the layers is joint, or fused: after layer 8 of the paper's
        12, after layer 3 of the demo's 4. A quarter of them join frames, but at most 3:
        layers 9, 10 and 11 of 12, layer 3 of 4; and fewer for a number of frames that
        cannot be halved so often.
        """
        third = max(1, layers // 3)
        joint = third if self.joint_layers else 0
        joining = joining_layers(min(3, max(1, layers // 4)), num_frames)
        return PromptConfig(
            text_length=self.text_length,
            video_length=self.video_length,
            position_length=self.position_length,
            context_length=self.context_length,
            joint_length=self.text_length if joint else 0,
            split_layer=layers - joint if joint else -1,
            num_frames=num_frames,
            adapter=self.adapter,
            lora_rank=self.lora_rank,
            global_length=self.global_length,
            latent=self.latent,
            fusion_layers=third if self.fusion else 0,
            fusion_text_layers=self.fusion_text_layers,
            merge_layers=joining if self.merging else 0,
        )

    def adds_some(self, prompts: PromptConfig) -> bool:
        """Whether something of what is added is of a kind that the method adds.

        Args:
            prompts: all that is added; its lengths and layers are a user's choice.
        """
        return bool(prompts.kinds() & self.prompt_config(_LAYERS).kinds())

    def trains_some(self, paths: Iterable[str], prompts: PromptConfig) -> bool:
        """Whether parameters can have been trained by the method.

        Args:
            paths: of trained parameters.
            prompts: what is added to CLIP.
        """
        added = any(pattern.startswith(_ADDED) for pattern in self.trained)
        if not added and prompts.kinds():
            return False
        return (added and self.adds_some(prompts)) or any(
            re.fullmatch(pattern, path)
            for path in paths
            if not path.startswith(_ADDED)
            for pattern in self.trained
        )

    def check(self, name: str, prompts: PromptConfig) -> None:
        """Checks that what is added to CLIP would train, and is of the method.

        Args:
            name: of the row.
            prompts: what a user adds.

        Raises:
            UserError: something is added, and the method trains the backbone alone, or
                adds something else.
        """
        if any(pattern.startswith(_ADDED) for pattern in self.trained):
            if prompts.kinds() and not self.adds_some(prompts):
                usual = ", ".join(self.prompt_config(_LAYERS).additions())
                raise UserError(
                    f"config.prompts has {', '.join(prompts.additions())} alone, but "
                    f"config.method={name} adds {usual}; use the method that adds this"
                )
            return
        for field, value in prompts.additions().items():
            usual = getattr(PromptConfig, field)
            raise UserError(
                f"config.prompts.{field} is {value}, but config.method={name} trains "
                f"nothing that is added to CLIP; leave it at {usual!r}, "
                "or use another method"
            )


METHODS = {
    "zero_shot": Method(about="CLIP without tuning; nothing is trained"),
    "full": Method(BACKBONE, about="every weight of CLIP is trained"),
    "bias": Method(
        (r"params/(vision|text)/.*bias",), about="every bias of CLIP is trained"
    ),
    "proj": Method(
        # One pattern a tower: a backbone that lacks one of them cannot be tuned so.
        (
            r"params/vision/projection(_bias)?",
            r"params/text/projection(_bias)?",
        ),
        about="the two output projections",
    ),
    "partial": Method(
        (r"params/(vision|text)/last_layer/.*",), about="the last layer of both towers"
    ),
    "adapter_attn": Method(
        _PROMPTS, adapter="attention", about="adapters in parallel to each attention"
    ),
    "adapter_ffn": Method(
        _PROMPTS, adapter="mlp", about="adapters in parallel to each MLP"
    ),
    "vop": Method(
        _PROMPTS,
        text_length=8,
        video_length=8,
        about="text and video prompts in every layer; ignores the order of frames",
    ),
    "vop_p": Method(
        _PROMPTS,
        text_length=8,
        video_length=4,
        position_length=4,
        about="vop with half of the video prompts specific to the frame position",
    ),
    "vop_c": Method(
        _PROMPTS,
        text_length=8,
        video_length=4,
        context_length=4,
        about="vop with half of the video prompts generated from all frames",
    ),
    "vop_f": Method(
        _PROMPTS,
        text_length=8,
        video_length=8,
        joint_layers=True,
        about="vop with attention across all frames in the last layers",
    ),
    "vop_fp": Method(
        _PROMPTS,
        text_length=8,
        video_length=4,
        position_length=4,
        joint_layers=True,
        about="vop_p and vop_f combined",
    ),
    "vop_fc": Method(
        _PROMPTS,
        text_length=8,
        video_length=4,
        context_length=4,
        joint_layers=True,
        about="vop_c and vop_f combined, the paper's best",
    ),
    "lora": Method(
        _PROMPTS,
        lora_rank=8,
        about="low-rank changes of queries, keys and values in both towers",
    ),
    "vop_lora": Method(
        _PROMPTS, text_length=8, video_length=8, lora_rank=8, about="vop and lora"
    ),
    "dgl_linear": Method(
        _PROMPTS,
        global_length=4,
        about="global prompts that look at all frames; all others from one table",
    ),
    "dgl_transformer": Method(
        _PROMPTS,
        global_length=4,
        latent="transformer",
        about="dgl_linear with a layer between the table and the prompts",
    ),
    "mv_adapter": Method(
        _PROMPTS,
        adapter="after_mlp",
        renormalize_video=True,
        about="adapters behind each MLP that look at all frames and at all words",
    ),
    "ivfusion": Method(
        _PROMPTS,
        lora_rank=8,
        fusion=True,
        renormalize_video=True,
        about="lora, and class tokens that attend across all frames in the last layers",
    ),
    "discovla": Method(
        _PROMPTS,
        lora_rank=8,
        fusion=True,
        fusion_text_layers=2,
        loss="alignment",
        renormalize_video=True,
        about="ivfusion, trained with captions of the frames as well",
    ),
    "tempme": Method(
        _PROMPTS,
        lora_rank=8,
        merging=True,
        renormalize_video=True,
        about="lora, and fewer tokens: patches are merged and frames joined",
    ),
}


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UserError: there is none.
    """
    return pick(METHODS, name, "method")
