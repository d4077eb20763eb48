"""One Transformer layer of a tower whose attention also includes prompts.

The output of a prompt is discarded after every layer (VoP, section 3), so a prompt
needs no query, no attention output and no MLP: it only adds a key and a value. This is
the same function as running the concatenated sequence and removing the prompts from the
result, for a fraction of the FLOPs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from vop_jax.model.clip.attention import as_one_group, attend, attend_across
from vop_jax.model.clip.precision import Precision
from vop_jax.model.clip.products import dense
from vop_jax.model.clip.remat import name_saved
from vop_jax.model.clip.rotary import Rotation, turn
from vop_jax.model.clip.sizes import TowerSize
from vop_jax.model.clip.splash_attention import pays, splash_attend


def with_saved_derivative(
    function: Callable[[Array], Array], slope: Callable[[Array], Array]
) -> Callable[[Array], Array]:
    """An elementwise function that saves only its derivative for the backward pass.

    Automatic differentiation would save several intermediate values instead.
    """
    known = jax.custom_jvp(function)
    known.defjvp(lambda x, dx: (function(*x), slope(*x) * dx[0]))
    return known


def _quick_gelu_slope(x: Array) -> Array:
    gate = jax.nn.sigmoid(1.702 * x)
    return gate * (1 + 1.702 * x * (1 - gate))


def _gelu_slope(x: Array) -> Array:
    # `jax.scipy.stats.norm.cdf` takes no bfloat16.
    below = 0.5 * jax.lax.erfc(-math.sqrt(0.5) * x)
    return below + x * jnp.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(x: Array) -> Array:
    squeezed = jnp.tanh(_TANH_SCALE * (x + 0.044715 * x**3))
    inner = _TANH_SCALE * (1 + 3 * 0.044715 * x**2)
    return 0.5 * (1 + squeezed) + 0.5 * x * (1 - squeezed**2) * inner


def _silu_slope(x: Array) -> Array:
    gate = jax.nn.sigmoid(x)
    return gate * (1 + x * (1 - gate))


_TANH_SCALE = math.sqrt(2 / math.pi)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "quick_gelu": with_saved_derivative(
        lambda x: x * jax.nn.sigmoid(1.702 * x), _quick_gelu_slope
    ),
    "gelu": with_saved_derivative(
        lambda x: jax.nn.gelu(x, approximate=False), _gelu_slope
    ),
    "gelu_tanh": with_saved_derivative(
        lambda x: jax.nn.gelu(x, approximate=True), _gelu_tanh_slope
    ),
    "silu": with_saved_derivative(jax.nn.silu, _silu_slope),
}


# Part of a layer -> a function of its input, whose result is added to its output.
Beside = Mapping[str, Callable[[Array], Array]]
_NOTHING: Beside = {}


class Across(NamedTuple):
    """One row of each group that attends to the tokens of all groups together.

    Attributes:
        pick: `[B, G, R, *n] -> [B, G, 1, *n]`, that row among those that are computed.
        put: (`[B, G, R, D]`, `[B, G, 1, D]`) -> the rows with that row replaced.
        mask: which tokens of each group it may attend to, `[#B, #G, S]`; None means
            all.
    """

    pick: Callable[[Array], Array]
    put: Callable[[Array, Array], Array]
    mask: Bool[Array, "#B #G S"] | None = None


class Rows(NamedTuple):
    """What a layer takes and returns.

    Attributes:
        tokens: `[B, G, S, D]`; None if no token is computed.
        carried: rows that run beside the groups, `[B, 1, P, D]`; None if there are
            none.
        sizes: how many tokens each token was merged of, `[B, G, S]`; None if none ever
            is.
    """

    tokens: Any
    carried: Any = None
    sizes: Any = None


# (tokens behind the attention `[B, G, S, D]`, their sizes, their keys
# `[B, G, S, H, d]`) -> fewer tokens, and their sizes.
Merge = Callable[[Array, Array, Array], tuple[Array, Array]]


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics computed in two passes."""

    # The one-pass variance loses precision where the mean is large, as in CLIP.
    use_fast_variance: bool = False


class Attention(nn.Module):
    """Multi-head attention of rows over tokens and prompts.

    Attributes:
        size: the size of the tower.
        precision: the dtypes of products and of what is between them.
        splash: whether long sequences use the TPU kernel, see `splash_attention`.
    """

    size: TowerSize
    precision: Precision = Precision()
    splash: bool = False

    @nn.compact
    def __call__(
        self,
        rows: Sequence[Array],
        tokens: Float[Array, "B G S D"],
        prompts: Sequence[Array],
        mask: Bool[Array, "#B #G #H #R S"] | None,
        turns: tuple[Rotation, Rotation] | None = None,
        beside: Beside = _NOTHING,
        carried: Sequence[Array] = (),
        across: Across | None = None,
        sizes: Float[Array, "B G S"] | None = None,
    ) -> tuple[list[Array], Array]:
        """Attends; all inputs have passed the layer's first LayerNorm.

        Args:
            rows: `[B, G, R, D]`, which attend within their group; none or one.
            tokens: which are attended to.
            prompts: further keys and values, as of `Block`.
            mask: which tokens each row may attend to.
            turns: the rotations of the rows' queries and of the tokens' keys.
            beside: what is added to the output of a projection, as of `Block`.
            carried: the carried rows `[B, 1, P, D]` of `Block`, which all others attend
                to, and those of them that attend to everything; or none.
            across: the row of each group of `rows` that attends across groups, as of
                `Block`.
            sizes: of the tokens, as of `Rows`; `rows` alone heed them.

        Returns:
            The outputs of `rows`, then of the carried rows that attend; and the tokens'
            keys `[B, G, S, H, d]`.
        """
        heads, width = self.size.heads, self.size.width
        project = {
            name: nn.DenseGeneral(
                (heads, width // heads),
                use_bias=self.size.key_bias or name != "key",
                name=name,
                **dense(self.precision),
            )
            for name in ("query", "key", "value")
        }

        def projected(
            name: str, rows: Array, rotation: Rotation | None = None
        ) -> Array:
            x = project[name](rows)
            if name in beside:
                x = x + beside[name](rows).reshape(x.shape)
            x = x if rotation is None else turn(x, rotation)
            # Attention multiplies its rows again, in the dtype of all products.
            x = x.astype(self.precision.operands)
            # Saved as complete rows: the 64 values of one head would fill only half of
            # a TPU's 128 lanes.
            return name_saved(x.reshape(*x.shape[:-2], width), name).reshape(x.shape)

        of_rows, of_tokens = turns or (None, None)
        # Prompts give keys and values only; they have no place to be turned by.
        groups = (*prompts, *carried[:1])
        keys = [projected("key", tokens, of_tokens)]
        keys += [projected("key", group) for group in groups]
        values = [projected("value", group) for group in (tokens, *groups)]
        scale = (width // heads) ** -0.5
        # A key that stands for n tokens weighs as much as n keys.
        bias = None if sizes is None else jnp.log(sizes)
        attending = [
            (projected("query", x, of_rows) * scale, keys, values, mask, bias)
            for x in rows
        ]
        for x in carried[1:]:
            every_key, every_value = (
                [*as_one_group(parts[:-1], *tokens.shape[:2]), parts[-1]]
                for parts in (keys, values)
            )
            query = projected("query", x) * scale
            attending.append((query, every_key, every_value, None, None))
        norm = None
        if self.size.attention_norm:
            norm = LayerNorm(self.size.epsilon, dtype=self.precision.results, name="ln")
        out = nn.DenseGeneral(width, axis=(-2, -1), name="out", **dense(self.precision))

        def output(mixed: Array) -> Array:
            if norm is not None:
                # Over all heads of a row together.
                flat = mixed.reshape(*mixed.shape[:-2], width)
                mixed = norm(flat).reshape(mixed.shape)
            return out(mixed)

        def attended(query: Array, keys: Any, values: Any, mask: Any, bias: Any):
            if self.splash and bias is None and pays(query, mask):
                return output(splash_attend(query, keys, values))
            return output(attend(query, keys, values, mask, bias))

        found = [attended(*one) for one in attending]
        if across is None:
            return found, keys[0]
        within, *rest = found
        query = across.pick(attending[0][0])
        joint = output(attend_across(query, keys, values, across.mask))
        if "across" in beside:
            joint = joint + beside["across"](across.pick(within))
        return [across.put(within, joint), *rest], keys[0]


class Mlp(nn.Module):
    """The feed-forward network (MLP) of a layer, gated or not."""

    size: TowerSize
    precision: Precision = Precision()

    @nn.compact
    def __call__(self, rows: Float[Array, "*n D"]) -> Float[Array, "*n D"]:
        """Applies the linear layers and what is between them."""
        size, activation = self.size, ACTIVATIONS[self.size.activation]

        def hidden(name: str) -> Array:
            wide = nn.Dense(size.mlp, name=name, **dense(self.precision))(rows)
            return name_saved(wide, "hidden")

        if size.gated:
            gated = activation(hidden("gate")) * hidden("up")
            inner = LayerNorm(size.epsilon, dtype=self.precision.results, name="ln")(
                gated
            )
        else:
            inner = activation(hidden("fc_1"))
        return nn.Dense(size.width, name="fc_2", **dense(self.precision))(inner)


class Block(nn.Module):
    """A pre-norm Transformer layer; attributes as of `Attention`."""

    size: TowerSize
    precision: Precision = Precision()
    splash: bool = False

    @nn.compact
    def __call__(
        self,
        tokens: Float[Array, "B G S D"],
        prompts: Sequence[Array] = (),
        mask: Bool[Array, "#B #G #H #R S"] | None = None,
        read: Callable[[Array], Array] | None = None,
        beside: Beside = _NOTHING,
        rotation: Rotation | None = None,
        carried: Float[Array, "B 1 P D"] | None = None,
        across: Across | None = None,
        sizes: Float[Array, "B G S"] | None = None,
        merge: Merge | None = None,
    ) -> Rows:
        """Runs the layer.

        Args:
            tokens: G groups of S tokens; attention stays within a group, but for the
                rows of `across`.
            prompts: further keys and values, `[P, D]`, `[G, P, D]` or `[B, G, P, D]`.
            mask: which tokens each row may attend to, and which prompts if it is as
                wide as both.
            read: picks the rows to compute, `[B, G, S, D] -> [B, G, R, D]`; None means
                all. Only one row of the last layer is ever used. With carried rows it
                picks among those, and no token is computed.
            beside: part of the layer (`attention`, `mlp`, and within the attention
                `query`, `key`, `value`) -> a function of that part's input, whose
                result is added to that part's output. `across` is the attention of the
                rows of that argument; its input is their ordinary attention output.
                `after_mlp` is added as well, and its input is the output of the MLP.
            rotation: of each token of a frame, whose number divides S: a group may hold
                several frames, and a token is turned by its place within its own.
            carried: rows that every group attends to, and that attend to themselves and
                to the tokens and prompts of all groups.
            across: the row of each group whose attention is over all groups; None if
                there is none.
            sizes: of the tokens, as of `Rows`.
            merge: merges tokens between attention and MLP, in a layer that computes all
                of them; None if none is merged.

        Returns:
            The layer's outputs for the tokens and for the carried rows, `read` ones
            alone; None for rows that are not computed.
        """
        results = self.precision.results
        norm = LayerNorm(self.size.epsilon, dtype=results, name="ln_1")
        normed = norm(tokens)
        # The rows that are computed, normalised and as they came.
        own = [(normed, tokens)]
        leading = [] if carried is None else [(norm(carried), carried)]
        shared = [rows for rows, _ in leading]
        if read is not None and carried is not None:
            own, leading = [], [(read(rows), read(x)) for rows, x in leading]
        elif read is not None:
            own = [(read(normed), read(tokens))]
        kept = read if carried is None else None
        mixed, keys = Attention(
            self.size, self.precision, self.splash, name="attention"
        )(
            [rows for rows, _ in own],
            normed,
            [norm(group) for group in prompts],
            mask,
            None if rotation is None else _turns(rotation, tokens, kept),
            beside,
            [*shared, *(rows for rows, _ in leading)],
            across,
            sizes,
        )
        ln_2 = LayerNorm(self.size.epsilon, dtype=results, name="ln_2")
        mlp = Mlp(self.size, self.precision, name="mlp")

        def attended(rows: Array, onward: Array, mixed: Array) -> Array:
            onward = onward + mixed
            if "attention" in beside:
                onward = onward + beside["attention"](rows)
            return name_saved(onward, "attended")

        def finished(onward: Array) -> Array:
            rows = ln_2(onward)
            changed = mlp(rows)
            onward = onward + changed
            if "mlp" in beside:
                onward = onward + beside["mlp"](rows)
            if "after_mlp" in beside:
                onward = onward + beside["after_mlp"](changed)
            return onward

        streams = [
            attended(*stream, x)
            for stream, x in zip([*own, *leading], mixed, strict=True)
        ]
        if merge is not None and sizes is not None:
            streams[0], sizes = merge(streams[0], sizes, keys)
        done = [finished(x) for x in streams]
        return Rows(done[0] if own else None, done[-1] if leading else None, sizes)


def _turns(
    rotation: Rotation,
    tokens: Float[Array, "B G S D"],
    read: Callable[[Array], Array] | None,
) -> tuple[Rotation, Rotation]:
    """The rotations of the rows that are read, and of all tokens."""
    frames = tokens.shape[2] // rotation.cos.shape[0]
    # [B, G, S, d]
    every = Rotation(
        *(
            jnp.broadcast_to(jnp.tile(x, (frames, 1)), (*tokens.shape[:3], x.shape[-1]))
            for x in rotation
        )
    )
    return (every if read is None else Rotation(*map(read, every))), every
