"""Runs a tower's layers as its plan says."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array, Float

from vop_jax.devices.sharded_params import gather, is_sharded
from vop_jax.model.clip.layers import Across, Block, Rows
from vop_jax.model.clip.remat import remat
from vop_jax.model.clip.rotary import Rotation
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.prompts.layer_plan import Segment, bind, rows_of


def _layer(block, whole, additions, rows, layer, **kwargs) -> Rows:
    """Runs one layer.

    Args:
        block: the layer.
        whole: shapes of the layer's complete parameters.
        additions: the sources that add to the layer.
        rows: what enters it.
        layer: the layer's parameters (possibly sharded) and its rows of the sources.
        **kwargs: of `Block.__call__`.
    """
    tokens, carried, sizes = rows
    params, own = layer
    params = gather(params, whole)
    bound = bind(additions, own)
    for join in bound.joins:
        tokens, sizes = join(tokens, sizes)
    for update in bound.updates:
        tokens = update(tokens)
    prompts = [make(tokens) for make in bound.prompts]
    return block.apply(
        {"params": params},
        tokens,
        prompts,
        beside=bound.beside,
        carried=carried,
        sizes=sizes,
        **kwargs,
    )


def _run_alike(layer, stacked, rows, *, looped: bool):
    """Runs layers of one structure, whose parameters are stacked on axis 0."""
    # One compiled body for all layers, or one copy of it for each.
    if looped:
        return jax.lax.scan(lambda x, one: (layer(x, one), None), rows, stacked)[0]
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        rows = layer(rows, jax.tree.map(operator.itemgetter(i), stacked))
    return rows


def run_layers(
    block: Block,
    whole: Any,
    stacked: Any,
    last: Any,
    tokens: Float[Array, "B G S D"],
    plan: Sequence[Segment],
    *,
    compute: ComputeConfig,
    mask: Array | None = None,
    read: Callable[[Array], Array] | None = None,
    read_mask: Array | None = None,
    enter_joint: Callable[[Array], Array] | None = None,
    rotation: Rotation | None = None,
    carried: Float[Array, "B 1 P D"] | None = None,
    across: Across | None = None,
    sizes: Float[Array, "B G S"] | None = None,
) -> Any:
    """Runs all layers of a tower, segment by segment.

    Args:
        block: the layer.
        whole: shapes of one layer's complete parameters.
        stacked: parameters of all layers but the last, with a leading layer axis;
            complete, or this device's FSDP shard.
        last: parameters of the last layer, complete or sharded.
        tokens: the input of layer 1.
        plan: segments of layers with the same additions, covering all layers.
        compute: how the layers run.
        mask: attention mask of all layers but the last.
        read: picks the rows that the last layer computes and returns; None means all.
        read_mask: attention mask of those rows.
        enter_joint: regroups the tokens before the first joint layer.
        rotation: of each token of a frame, as of `Block`.
        carried: rows that run through all layers beside the groups, as of `Block`;
            `read` picks among them.
        across: the row of each frame whose attention is over all frames in the segments
            that say so; `read`, if given, reads just that row.
        sizes: of the tokens, as of `Rows`.

    Returns:
        The rows that the last layer returns.
    """
    layers, joint = plan[-1].stop, False
    current = Rows(tokens, carried, sizes)
    # The same rematerialization policy for every layer.
    saving = functools.partial(
        remat, name=compute.remat, is_sharded=is_sharded(last, whole)
    )
    for segment in plan:
        # From the first joint segment on, the frames of a video attend to each other.
        if segment.joint and not joint and enter_joint is not None:
            current = current._replace(tokens=enter_joint(current.tokens))
            joint = True
        layer = functools.partial(
            *(_layer, block, whole, segment.additions),
            rotation=rotation,
            merge=segment.merge,
        )
        own = across if segment.across else None
        rows = rows_of(segment.additions)
        # The segment's layers except the tower's last, which is stored separately.
        stop = min(segment.stop, layers - 1)
        if stop > segment.start:
            looped = compute.scan and stop - segment.start > 1
            current = _run_alike(
                saving(functools.partial(layer, mask=mask, across=own), looped=looped),
                (
                    # A slice of the complete axis is free; a part of it may be copied.
                    jax.tree.map(
                        operator.itemgetter(slice(segment.start, stop)), stacked
                    ),
                    jax.tree.map(
                        operator.itemgetter(slice(stop - segment.start)), rows
                    ),
                ),
                current,
                looped=looped,
            )
        # The last layer computes only the rows that are read, if not all of them are
        # and nothing looks at the others.
        if segment.stop == layers:
            row = jax.tree.map(lambda x: x[-1], rows)
            early = None if segment.additions.looks_at_all else read
            if own is not None and early is not None:
                own = Across(lambda rows: rows, lambda rows, new: new, own.mask)
            layer = functools.partial(
                layer,
                mask=mask if segment.additions.looks_at_all else read_mask,
                read=early,
                across=own,
            )
            run = saving(layer, looped=False)
            current = run(current, (last, row))
            if read is not None and early is None:
                current = current._replace(tokens=read(current.tokens))
    return current.tokens if current.carried is None else current.carried
