"""Merging of tokens: within frames, and of neighbouring frames joined (TempMe).

TempMe (Shen et al., ICLR 2025), in the form of its released code. Most layers of the
vision tower merge the few patches of each frame that are most alike. The layers before
the last join neighbouring frames to one group: their class tokens stand in front, then
their patches, and a share of those is merged, whichever frame they are of. So later
layers have fewer rows to compute. A merged token is the mean of the tokens that it
stands for, and as a key it weighs as much as all of them.

How many tokens are merged depends on no value, so all shapes are static. Which ones are
has no gradient; the mean has.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float, Int

from vop_jax.model.clip.remat import name_saved
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.prompts.layer_plan import Segment, Source, singly
from vop_jax.model.prompts.variables import added, constant


class Step(NamedTuple):
    """What happens to the groups of tokens in one layer.

    Attributes:
        joined: how many neighbouring groups are joined to one in front of the layer; 0
            in a layer that joins none (1 is a join of what is one group already).
        classes: class tokens of a group, which are never merged.
        before: tokens of a group that are merged into others in front of the layer.
        after: the same between its attention and its MLP.
        tokens: tokens of a group that its attention, then its MLP computes.
    """

    joined: int
    classes: int
    before: int
    after: int
    tokens: tuple[int, int]


def schedule(config: PromptConfig, layers: int, tokens: int) -> list[Step]:
    """What is joined and merged in each layer of a vision tower.

    Args:
        config: the prompt configuration.
        layers: K.
        tokens: S, of a frame.
    """
    joins = config.joins()
    first, classes, found = layers - 1 - len(joins), 1, []
    for layer in range(layers):
        joined = before = after = 0
        if first <= layer < layers - 1:
            joined = joins[layer - first]
            classes, tokens = joined * classes, joined * tokens
            before = _few(int(config.merge_share_before * tokens), tokens, classes)
            share = int(config.merge_share_after * (tokens - before))
            after = _few(share, tokens - before, classes)
        elif layer < first:
            after = _few(config.merged_per_layer, tokens, classes)
        # The last layer computes class tokens alone.
        computed = tokens - before, tokens - before - after
        found.append(Step(joined, classes, before, after, computed))
        tokens = computed[1]
    return found


def _few(count: int, tokens: int, classes: int) -> int:
    """At most half of the tokens that may be merged."""
    return min(count, (tokens - classes) // 2)


class Merging(nn.Module):
    """The tables of the joins: `positions.0 [F, D]`, `positions.1 [F / 2, D]`, ...

    Attributes:
        config: the prompt configuration.
        width: D.
    """

    config: PromptConfig
    width: int

    @nn.compact
    def __call__(self, plan: list[Segment], frames: int, tokens: int) -> list[Segment]:
        """The layer plan of the vision tower, with its tokens merged.

        Args:
            plan: without.
            frames: F, of a video.
            tokens: S, of a frame.
        """
        if frames != self.config.num_frames:
            raise ValueError(
                f"{frames} frames; their merging is made for {self.config.num_frames}"
            )
        steps, merged, count = schedule(self.config, plan[-1].stop, tokens), [], 0
        for segment, step in zip(singly(plan), steps, strict=True):
            additions = segment.additions
            if step.joined:
                # It starts at zero, so at first the place of a frame changes nothing.
                name, shape = f"positions.{count}", (frames, self.width)
                table = added(self, name, shape, constant(0.0))
                join = functools.partial(_join, step)
                source = Source(segment.start, table[None], join)
                additions = additions._replace(joins=(source,))
                frames, count = frames // step.joined, count + 1
            merge = functools.partial(_merge_by_keys, step) if step.after else None
            merged.append(segment._replace(additions=additions, merge=merge))
        return merged


def _join(
    step: Step,
    positions: Float[Array, "G D"],
    tokens: Float[Array, "B G S D"],
    sizes: Float[Array, "B G S"],
) -> tuple[Array, Array]:
    """Joins neighbouring groups and merges what is most alike.

    Likeness is that of the tokens before the row of their group is added.
    """
    own = step.classes // step.joined
    metric = join_groups(lax.stop_gradient(tokens), step.joined, own)
    tokens = tokens + positions[:, None].astype(tokens.dtype)
    tokens = join_groups(tokens, step.joined, own)
    sizes = join_groups(sizes[..., None], step.joined, own)[..., 0]
    return merge_tokens(tokens, sizes, metric, step.classes, step.before)


def _merge_by_keys(
    step: Step,
    tokens: Float[Array, "B G S D"],
    sizes: Float[Array, "B G S"],
    keys: Float[Array, "B G S H d"],
) -> tuple[Array, Array]:
    """Merges the tokens whose keys, as a mean over heads, are most alike."""
    metric = keys.mean(axis=-2, dtype=jnp.float32)
    return merge_tokens(tokens, sizes, metric, step.classes, step.after)


def join_groups(
    rows: Float[Array, "B G S D"], joined: int, classes: int
) -> Float[Array, "B g T D"]:
    """Rows of neighbouring groups as one group: all class tokens, then the patches.

    Args:
        rows: of each group.
        joined: how many groups become one, a divisor of G.
        classes: class tokens in front of each group.
    """
    batch, groups, _, width = rows.shape
    parts = rows[:, :, :classes], rows[:, :, classes:]
    shape = batch, groups // joined, -1, width
    return jnp.concatenate([x.reshape(shape) for x in parts], axis=2)


def merge_tokens(
    tokens: Float[Array, "B G S D"],
    sizes: Float[Array, "B G S"],
    metric: Float[Array, "B G S d"],
    classes: int,
    count: int,
) -> tuple[Float[Array, "B G T D"], Float[Array, "B G T"]]:
    """Merges some tokens into those that they are most like (ToMe).

    Args:
        tokens: of each group.
        sizes: how many tokens each of them was merged of.
        metric: what their likeness is the cosine of.
        classes: tokens in front of each group that take no part.
        count: how many are merged into others, at most half of the rest.

    Returns:
        The T = S - `count` tokens in the order of `destinations` (as they came, if none
        is merged), each the mean of what it stands for, and their sizes.
    """
    if not count:
        return tokens, sizes
    places = name_saved(destinations(metric, classes, count), "merged")
    # A matrix [T, S] of zeros and weights: one product on any device, where gathers and
    # sums by segment are slow on a TPU. It is exact for a token that stays alone.
    wanted = np.arange(tokens.shape[2] - count)[:, None]
    weights = jnp.where(places[..., None, :] == wanted, sizes[..., None, :], 0.0)
    sizes = weights.sum(axis=-1)
    weights = (weights / sizes[..., None]).astype(tokens.dtype)
    # The residual stream is as wide as its dtype: a TPU would round float32 here.
    merged = jnp.matmul(weights, tokens, precision=lax.Precision.HIGHEST)
    return merged, sizes


def destinations(
    metric: Float[Array, "B G S d"], classes: int, count: int
) -> Int[Array, "B G S"]:
    """The place of each token after the merge.

    Sources are the tokens behind the class tokens at even places of the group, class
    tokens counted, and targets those at odd places. The `count` sources that are most
    like a target are merged into it. What is left stands in this order: class tokens,
    sources, targets.
    """
    metric = lax.stop_gradient(metric).astype(jnp.float32)
    squares = (metric * metric).sum(axis=-1, keepdims=True)
    metric = metric * lax.rsqrt(jnp.maximum(squares, jnp.finfo(jnp.float32).tiny))
    even, odd = classes + classes % 2, classes + 1 - classes % 2
    likeness = jnp.einsum(
        "bgsd,bgtd->bgst", metric[:, :, even::2], metric[:, :, odd::2]
    )
    sources, targets = likeness.shape[-2:]
    # Comparisons of all with all, which a device does at once: neither a sort nor an
    # argmax is faster for so few. Of equals the first comes first.
    most = likeness.max(axis=-1)
    equal = likeness == most[..., None]
    nearest = jnp.where(equal, np.arange(targets), targets).min(axis=-1)
    index = np.arange(sources)
    earlier = index < index[:, None]
    mine, other = most[..., :, None], most[..., None, :]
    ahead = (other > mine) | ((other == mine) & earlier)
    merged = ahead.sum(axis=-1) < count
    staying = classes + (earlier & ~merged[..., None, :]).sum(axis=-1)
    first = classes + sources - count
    of_sources = jnp.where(merged, first + nearest, staying)
    # Those of class tokens and targets are known beforehand.
    places = np.arange(metric.shape[2])
    places[classes:] = 0
    places[odd::2] = first + np.arange(targets)
    after = len(places) - even - (2 * sources - 1)
    spread = [(0, 0, 0), (0, 0, 0), (even, after, 1)]
    return jnp.asarray(places) + lax.pad(of_sources, np.int32(0), spread)


def unmerged(tokens: Float[Array, "B G S D"]) -> Float[Array, "B G S"]:
    """The sizes of tokens none of which is merged yet."""
    return jnp.ones(tokens.shape[:3], jnp.float32)
