"""Equal videos and captions of a batch are not negatives of each other."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_problem import (
    ONE,
    SIZE,
    assert_close,
    feature_gradients,
    lower,
    problem,
)
from tiers import by_hand, slow

from data_pipelines.console.errors import UserError
from data_pipelines.decoding.images import encode_jpeg
from data_pipelines.feeding.feed import TrainFeed
from data_pipelines.feeding.split import MemoryFrames, Split
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.optimization.config import MASKS
from vop_jax.optimization.losses import contrastive_loss
from vop_jax.plan import programs as planning
from vop_jax.plan.collectives import count_collectives
from vop_jax.runtime.run_folder import RunFolder
from vop_jax.training.config import ADDED_FIELDS, as_begun, check_config, default_values
from vop_jax.training.presets import PRESETS

# Eight pairs: (video, text) of each. Rows 0, 2 and 7 are of one video; 1 and 2, and 3
# and 6, are of one text; 4 and 5 share nothing.
PAIRS = np.array(
    [[5, 0], [1, 1], [5, 1], [2, 3], [3, 4], [4, 5], [6, 3], [5, 6]], np.int32
)
COLUMNS = {"none": [], "videos": [0], "videos_and_captions": [0, 1]}


def identity(mode):
    return PAIRS[:, COLUMNS[mode]] if COLUMNS[mode] else None


def naive(video, text, logit_scale, identity):
    """The loss and its gradients by loops over rows and candidates, float64."""
    video, text = np.float64(video), np.float64(text)
    count, scale = len(video), np.exp(np.float64(logit_scale))
    loss, d_video, d_text = 0.0, np.zeros_like(video), np.zeros_like(text)
    for rows, candidates, d_rows, d_candidates in (
        (text, video, d_text, d_video),
        (video, text, d_video, d_text),
    ):
        for i in range(count):
            kept = [
                j
                for j in range(count)
                if j == i or identity is None or not (identity[i] == identity[j]).any()
            ]
            logits = {j: scale * rows[i] @ candidates[j] for j in kept}
            total = sum(np.exp(x) for x in logits.values())
            loss += (np.log(total) - logits[i]) / (2 * count)
            for j in kept:
                pull = (np.exp(logits[j]) / total - (i == j)) * scale / (2 * count)
                d_rows[i] += pull * candidates[j]
                d_candidates[j] += pull * rows[i]
    return loss, d_video, d_text


def features():
    rng = np.random.default_rng(3)
    video, text = rng.normal(0, 1, (2, 8, 6))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (video, text)]
    return [x.astype(np.float32) for x in unit]


@pytest.mark.parametrize("chunk", [0, 1, 2])
@pytest.mark.parametrize("mode", MASKS)
def test_the_loss_is_that_of_two_loops(mode, chunk):
    video, text = features()
    scale = jnp.float32(2.0)
    loss, gradient = jax.value_and_grad(
        lambda video, text: contrastive_loss(
            video, text, scale, identity(mode), chunk=chunk
        ),
        argnums=(0, 1),
    )(video, text)
    expected, *expected_gradient = naive(video, text, scale, identity(mode))
    assert loss == pytest.approx(expected, abs=1e-6)
    for ours, theirs in zip(gradient, expected_gradient, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    if mode != "none":
        assert abs(expected - naive(video, text, scale, None)[0]) > 1e-2


@pytest.mark.parametrize("chunk", [0, 2])
def test_a_batch_of_one_video_has_no_negatives(chunk):
    """A chunk, and a whole row, may be left with nothing else; the gradient is 0."""
    video, text = features()
    same = np.zeros((8, 1), np.int32)
    loss, gradient = jax.value_and_grad(
        lambda video: contrastive_loss(video, text, 4.0, same, chunk=chunk)
    )(video)
    assert loss == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def lower_masked(batch_identity, layout, **options):
    """`lower` with the ids of a batch's rows, or without."""
    variables, batch = problem("vop")
    if batch_identity is not None:
        batch["identity"] = batch_identity
    return lower(variables, batch, layout, **options)


@pytest.fixture(scope="module")
def reference():
    """By mode: the gradient of the prompts through the loops' gradient of features."""
    variables, batch = problem("vop")
    (video, text), pull = feature_gradients(variables, batch)
    scale = variables["params"]["logit_scale"]
    found = {}
    for mode in MASKS:
        loss, *by = naive(video, text, scale, identity(mode))
        by = tuple(x.astype(np.float32) for x in by)
        found[mode] = loss, jax.device_get(pull(by)[0])
    return found


EIGHT = MeshConfig(data=4, fsdp=2)


@pytest.mark.parametrize(
    ("mode", "layout", "options"),
    [
        slow("videos_and_captions", ONE, {"micro_batch": 2, "loss_chunk": 2}),
        slow("videos", MeshConfig(data=8), {"loss_chunk": 4}),
        slow("videos", EIGHT, {"micro_batch": 8, "loss_chunk": 1}),
        slow("videos_and_captions", EIGHT, {"loss_chunk": 2}),
        *(
            by_hand(mode, layout, options)
            for mode in ("videos", "videos_and_captions")
            for layout in (ONE, MeshConfig(data=2), MeshConfig(data=8), EIGHT)
            for options in (
                {},
                {"loss_chunk": 4},
                {"micro_batch": 8 if layout.data > 2 else 4},
                {"micro_batch": 8 if layout.data > 2 else 2, "loss_chunk": 1},
            )
        ),
    ],
)
def test_any_layout_masks_the_same(mode, layout, options, reference):
    program, arguments = lower_masked(identity(mode), layout, **options)
    compiled = program.compile()
    loss, gradient = jax.device_get(compiled(*arguments))
    expected, expected_gradient = reference[mode]
    assert loss == pytest.approx(expected, abs=1e-6)
    assert_close(gradient, expected_gradient)
    if layout == ONE:
        return
    # The numbers are gathered beside the features, once; nothing else is added.
    sent = count_collectives(compiled.as_text())
    kinds = {(x.kind, x.type): times for x, times in sent.items()}
    assert kinds["all-gather", f"s32[8,{len(COLUMNS[mode])}]"] == 1
    assert kinds["all-gather", f"f32[8,{2 * SIZE.embedding}]"] == 1
    scattered = [x for x in sent.elements() if x.kind == "reduce-scatter"]
    assert len(scattered) == 1


def test_what_is_off_is_not_in_the_program():
    """No number is gathered or compared that only the mask wants."""
    layout = MeshConfig(data=2)
    on, off = (lower_masked(x, layout)[0].as_text() for x in (identity("videos"), None))
    assert "tensor<8x1xi32>" in on
    assert "tensor<8x1xi32>" not in off
    assert on.count("all_gather") > off.count("all_gather") > 0


def test_captions_of_one_video_no_longer_stay_at_ln_8():
    """Gradient descent on features of 8 pairs of 1 video, and of 4 pairs each of 2."""

    def reached(videos, masked):
        which = np.repeat(np.arange(videos, dtype=np.int32), 8 // videos)
        rng = np.random.default_rng(0)
        free = [rng.normal(0, 1, (n, 6)).astype(np.float32) for n in (videos, 8)]

        @jax.jit
        def step(free):
            def loss_of(free):
                video, text = (
                    x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in free
                )
                mask = which[:, None] if masked else None
                return contrastive_loss(video[which], text, jnp.log(20.0), mask)

            loss, slope = jax.value_and_grad(loss_of)(free)
            return [x - 0.3 * d for x, d in zip(free, slope, strict=True)], loss

        for _ in range(300):
            free, loss = step(free)
        return float(loss)

    for videos in (1, 2):
        assert reached(videos, masked=False) >= np.log(8 / videos) - 1e-5
        assert reached(videos, masked=True) < 0.01


def split(captions_each=8, videos=4):
    frames = np.empty((videos, 1), object)
    frames[:, 0] = [encode_jpeg(np.zeros((8, 8, 3), np.uint8))] * videos
    count = videos * captions_each
    ids = np.zeros((count, 10), np.int32)
    ids[:, 0], ids[:, 1], ids[:, 2] = 38, np.arange(count) % 11 + 1, 39
    start = np.arange(0, count + 1, captions_each)
    names = [f"video{i}" for i in range(videos)]
    captions = [f"caption {i}" for i in range(count)]
    made = Split("train", names, MemoryFrames(frames), captions, start, [{}] * videos)
    return dataclasses.replace(made, token_ids=ids), ids


@pytest.mark.parametrize("epoch_of", ["pairs", "videos"])
@pytest.mark.parametrize("hosts", [1, 2])
def test_the_feed_says_what_a_pair_is_of(epoch_of, hosts):
    train, ids = split()
    names = ("video", "text")
    shares = [
        list(
            TrainFeed(
                train,
                batch_size=4,
                seed=1,
                epoch_of=epoch_of,
                identity=names,
                shard_index=i,
                shard_count=hosts,
            ).batches(0, 3)
        )
        for i in range(hosts)
    ]
    plain = TrainFeed(train, batch_size=4, seed=1, epoch_of=epoch_of)
    for step, expected in enumerate(plain.batches(0, 3)):
        assert "identity" not in expected
        got = np.concatenate([share[step]["identity"] for share in shares])
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got[:, 0], expected["video"])
        texts = ids[expected["caption"]]
        equal = (texts[:, None] == texts[None]).all(-1)
        np.testing.assert_array_equal(got[:, 1, None] == got[None, :, 1], equal)


def test_captions_are_equal_as_they_are_cut():
    """Of two long captions that differ behind the cut, the model sees one."""
    train, ids = split(captions_each=2, videos=2)
    ids[:] = [38, 1, 2, 39, 0, 0, 0, 0, 0, 0]
    ids[3, 2] = 3
    feed = TrainFeed(train, batch_size=4, seed=0, epoch_of="pairs", identity=("text",))
    (batch,) = feed.batches(0, 1)
    by_caption = dict(zip(batch["caption"], batch["identity"][:, 0], strict=True))
    assert by_caption[0] == by_caption[1] == by_caption[2] != by_caption[3]


def test_the_benchmarks_keep_the_published_recipe():
    modes = {
        name: check_config(default_values("vop", name, "demo")).mask_equal
        for name in PRESETS
    }
    assert modes.pop("custom") == "videos_and_captions"
    assert set(modes.values()) == {"none"}
    with pytest.raises(UserError, match="mask_equal must be one of none, videos, "):
        check_config(default_values() | {"mask_equal": "captions"})


def test_an_older_run_is_resumed_as_it_was_begun(tmp_path):
    config = check_config(default_values("vop", "custom", "demo"))
    # A stored configuration says what `auto` came to.
    compute = dataclasses.replace(config.compute, dtype="float32")
    config = dataclasses.replace(config, compute=compute)
    folder = RunFolder(tmp_path / "run")
    assert as_begun(config, folder) == config
    kept = config.as_json()
    del kept["mask_equal"]
    folder.start(kept)
    resumed = as_begun(config, folder)
    assert resumed == dataclasses.replace(config, mask_equal="none")
    folder.check(resumed.as_json(), added=ADDED_FIELDS)
    # What was asked for in so many words is not what the run did.
    asked = dataclasses.replace(config, mask_equal="videos")
    with pytest.raises(UserError, match="mask_equal is 'none' there and 'videos' here"):
        folder.check(as_begun(asked, folder).as_json(), added=ADDED_FIELDS)
    # A run of today says it itself.
    today = RunFolder(tmp_path / "today")
    today.start(json.loads(json.dumps(config.as_json())))
    assert as_begun(config, today) == config


@pytest.mark.slow
def test_the_plan_compiles_the_masked_step():
    values = default_values("vop", backbone="demo")
    values |= {"mask_equal": "videos_and_captions", "batch_size": 16}
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    plan = planning.RunPrograms(
        check_config(values), SIZES["demo"], mesh, caption_tokens=8
    )
    sent = [(x.kind, x.type) for x in plan.train_step(16).collectives.elements()]
    assert sent.count(("all-gather", "s32[16,2]")) == 1
    # The features, their gradient and one sum, as without.
    assert len(sent) == 4
