"""The loss with captions of frames, and the text tower's half of fusion."""

import dataclasses

import jax
import jax.numpy as jnp
import naive_fusion
import numpy as np
import pytest
from fusion_problem import (
    LONG,
    SMALL,
    assert_close,
    problem,
    random_ids,
    reference_gradient,
    step_gradient,
)
from tiers import by_hand

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import AXES, BATCH, make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.model.trained import select, trained_mask
from vop_jax.model.tree_paths import paths
from vop_jax.optimization.alignment import similarity_of_frames
from vop_jax.optimization.config import AlignmentConfig, OptimizerConfig
from vop_jax.optimization.losses import alignment_loss, contrastive_loss
from vop_jax.optimization.optimizer import make_optimizer
from vop_jax.optimization.train_step import initial_state, make_train_step, merge
from vop_jax.training.config import check_config, default_values
from vop_jax.training.preflight import check_fields

CONFIG = PromptConfig(
    lora_rank=3, fusion_layers=1, fusion_text_layers=1, fusion_width=3
)
PROMPTED = PromptConfig(
    text_length=2, video_length=2, fusion_layers=2, fusion_text_layers=2
)
ONE, TWO = MeshConfig(data=1), MeshConfig(data=2)


def aligned(size, config, frames, lengths, each):
    """A problem whose frames have captions of lengths that `each` draws."""
    config, variables, pixels, ids = problem(size, config, frames, lengths)
    rng = np.random.default_rng(7)
    chosen = rng.choice(each, len(lengths) * frames)
    chosen[:2] = max(each), min(each)
    frame_ids = random_ids(size, list(chosen), rng).reshape(len(lengths), frames, -1)
    batch = {"frames": pixels, "text_ids": ids, "frame_ids": frame_ids}
    return config, variables, batch


CASES = [
    (
        *(SMALL, CONFIG, 2, (3, 9), (3, 5, 9), TWO),
        *(ComputeConfig(scan=True, remat="lean"), {}),
    ),
    by_hand(
        *(LONG, CONFIG, 3, (77, 3), (3, 40, 77), ONE),
        *(ComputeConfig(scan=False), {"micro_batch": 1}),
    ),
    by_hand(
        *(SMALL, PROMPTED, 2, (3, 7, 12, 4), (3, 5, 9), MeshConfig(data=1, fsdp=2)),
        *(ComputeConfig(remat="full"), {"micro_batch": 2, "loss_chunk": 2}),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "config", "frames", "lengths", "each", "layout", "compute", "options"),
    CASES,
)
def test_features_loss_and_gradients(
    size, config, frames, lengths, each, layout, compute, options
):
    config, variables, batch = aligned(size, config, frames, lengths, each)
    inputs = tuple(batch.values())

    (want, wanted), right = reference_gradient(
        lambda variables: naive_fusion.alignment_loss(size, config, variables, *inputs),
        variables,
    )
    model = DualEncoder(size, config, compute, renormalize_video=True)
    features = jax.jit(lambda *x: model.apply(*x, method="encode_aligned"))(
        variables, *inputs
    )
    for ours, theirs in zip(features, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    options = {"loss": "alignment", **options}
    got, gradient = step_gradient(model, variables, batch, layout, **options)
    assert got == pytest.approx(float(want), rel=1e-5)
    assert_close(gradient, right)


@pytest.mark.slow
def test_a_step_changes_all_that_is_added_and_nothing_else():
    config, variables, batch = aligned(SMALL, CONFIG, 2, (3, 9), (3, 5))
    mask = trained_mask(variables, METHODS["discovla"].trained)
    trainable, frozen = (select(variables, mask, trained=x) for x in (True, False))
    optimizer = make_optimizer(OptimizerConfig(warmup=0), trainable, 10)
    mesh = make_mesh(ONE, jax.devices()[:1])
    model = DualEncoder(SMALL, config, renormalize_video=True)
    step = jax.jit(make_train_step(model, optimizer, mesh, loss="alignment"))
    state, metrics = step(initial_state(trainable, optimizer, 1e-3), frozen, batch)
    assert np.isfinite(metrics["loss"])
    after, chosen = paths(merge(state.trainable, frozen)), paths(mask)
    assert {path for path in chosen if "/fusion/" in path} == {
        f"prompts/{tower}/fusion/{name}.{kind}"
        for tower in ("text", "vision")
        for name in ("down", "up")
        for kind in ("weight", "bias")
    }
    for path, before in paths(variables).items():
        assert np.array_equal(before, after[path]) != chosen[path], path


def test_captions_of_frames_see_each_other_and_no_padding():
    config, variables, batch = aligned(SMALL, CONFIG, 2, (3, 9), (3, 9))
    model = DualEncoder(SMALL, config)
    run = jax.jit(lambda *x: model.apply(*x, method="encode_aligned"))
    frames, ids, of_frames = batch.values()
    found = run(variables, frames, ids, of_frames)
    naive = jax.jit(
        lambda variables: naive_fusion.encode_captions(
            SMALL, config, variables, of_frames[0]
        )
    )
    np.testing.assert_allclose(found[3][0], naive(variables), atol=1e-5)
    # Whatever stands after EOT.
    padded = np.where(of_frames == 0, 5, of_frames)
    again = run(variables, frames, ids, padded)
    np.testing.assert_allclose(again[3], found[3], atol=1e-6)
    # The other frames' captions do change it; a caption of the video sees none.
    swapped = of_frames.copy()
    swapped[:, 1] = swapped[::-1, 1]
    moved = run(variables, frames, ids, swapped)
    assert np.abs(moved[3][:, 0] - found[3][:, 0]).max() > 1e-3
    for n in range(3):
        np.testing.assert_array_equal(moved[n], found[n])


SETTINGS = AlignmentConfig()


def random_features(count=4, frames=3, width=6):
    rng = np.random.default_rng(0)

    def unit(*shape):
        x = rng.normal(size=shape)
        return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)

    singles = (unit(count, width), unit(count, width))
    return *singles, unit(count, frames, width), unit(count, frames, width)


def gradient_of(loss, *features):
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*features)


@pytest.mark.parametrize(("devices", "detach"), [(1, False), (2, True)])
def test_the_loss_is_its_three_terms(detach, devices):
    """Without a mesh, and with its rows on two devices and candidates in chunks."""
    features, scale = random_features(), jnp.float32(1.5)
    settings = dataclasses.replace(SETTINGS, detach_teacher=detach)

    def naive(*features):
        terms = naive_fusion.aligned_terms(*features, jnp.exp(scale), detach)
        return terms[0] + 0.3 * terms[1] + terms[2]

    def ours(*features):
        if devices == 1:
            return alignment_loss(*features, scale, weights=settings)
        return jax.shard_map(
            lambda *own: jax.lax.psum(
                alignment_loss(*own, scale, weights=settings, axes=AXES, chunk=2), AXES
            ),
            mesh=make_mesh(TWO, jax.devices()[:2]),
            in_specs=BATCH,
            out_specs=jax.sharding.PartitionSpec(),
            check_vma=False,
        )(*features)

    want, wanted = gradient_of(naive, *features)
    got, gradients = gradient_of(ours, *features)
    assert got == pytest.approx(float(want), rel=1e-5)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_without_weights_it_is_the_softmax_loss():
    features, scale = random_features(), jnp.float32(1.5)
    none = AlignmentConfig(image_weight=0, distillation_weight=0)
    loss = jax.jit(lambda *x: alignment_loss(*x, scale, weights=none))
    plain = contrastive_loss(*features[:2], scale)
    assert loss(*features) == pytest.approx(float(plain))


def test_pairs_that_are_no_negatives_count_in_no_term():
    """Row 1 is another pair of row 0's video, as if it were not in its sums."""
    features, scale = random_features(), jnp.float32(1.5)
    identity = jnp.array([[7], [7], [8], [9]])
    _, found = gradient_of(
        lambda *x: alignment_loss(*x, scale, identity, weights=SETTINGS), *features
    )
    assert all(np.isfinite(x).all() for x in found)
    # Candidate by candidate, over those that count.
    video, text, frames, captions = features
    factor = float(jnp.exp(scale))
    images = factor * similarity_of_frames(captions, frames, jnp.exp(scale))
    videos = factor * text @ video.T
    counted = np.array(identity != identity.T) | np.eye(4, dtype=bool)
    total = {"video": 0.0, "image": 0.0, "distilled": 0.0}
    for image, plain in ((images, videos), (images.T, videos.T)):
        for n in range(4):
            teacher, student = image[n][counted[n]], plain[n][counted[n]]
            p, q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
            total["video"] += jax.nn.logsumexp(student) - plain[n, n]
            total["image"] += jax.nn.logsumexp(teacher) - image[n, n]
            total["distilled"] += (jnp.exp(p) * (p - q)).sum()
    want = (total["video"] + 0.3 * total["image"]) / 8
    want += 100 * total["distilled"] / 2 / 16
    got = alignment_loss(*features, scale, identity, weights=SETTINGS)
    assert got == pytest.approx(float(want), rel=1e-5)


def test_trained_parameters_by_leaf():
    shapes = added_shapes(SIZES["vit_b32"], METHODS["discovla"].prompt_config(12))
    text = {k: v for k, v in shapes.items() if k.startswith("prompts/text/fusion")}
    assert text == {
        "prompts/text/fusion/down.weight": (2, 8, 512),
        "prompts/text/fusion/down.bias": (2, 8),
        "prompts/text/fusion/up.weight": (2, 512, 8),
        "prompts/text/fusion/up.bias": (2, 512),
    }
    rest = shapes.keys() - text.keys()
    assert (
        rest
        == added_shapes(SIZES["vit_b32"], METHODS["ivfusion"].prompt_config(12)).keys()
    )
    assert sum(int(np.prod(x)) for x in shapes.values()) == 561_200


@pytest.mark.parametrize(
    ("method", "changes", "says"),
    [
        ("discovla", {"frame_captions": ""}, "loss=alignment needs a caption of each"),
        ("vop", {"frame_captions": "exact"}, "loss=auto does not read"),
        ("discovla", {"loss": "softmax", "frame_captions": ""}, "would not train"),
    ],
)
def test_what_does_not_go_together_is_one_line(method, changes, says):
    config = check_config(default_values(method) | changes)
    with pytest.raises(UserError, match=says) as error:
        check_fields(config)
    assert "\n" not in str(error.value)


def test_the_defaults_of_the_method():
    demo, other = (default_values("discovla", x) for x in ("demo", "msrvtt_9k"))
    assert (demo["loss"], other["loss"]) == ("alignment", "alignment")
    assert (demo["frame_captions"], other["frame_captions"]) == ("exact", "")
    assert demo["renormalize_video"]
    assert not demo["alignment"]["detach_teacher"]
    assert other["optimizer"]["learning_rate"] == 6e-4
    check_fields(check_config(demo))
    plain = default_values("vop", "demo")
    assert (plain["loss"], plain["frame_captions"]) == ("auto", "")
