"""The Python surface: files of every method, any batch, many prompts on one CLIP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from tiers import slow_except

import vop_jax
from data_pipelines.console.errors import UserError
from vop_jax.api import load
from vop_jax.devices.mesh import put_batch
from vop_jax.model import embedder
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.embedder import Embedder
from vop_jax.model.methods import METHODS
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import added_shapes
from vop_jax.model.tree_paths import paths
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.locate import BACKBONE
from vop_jax.weights.tuned import load_tuned, save_tuned
from vop_jax.weights.tuned_metadata import metadata_of

FRAMES = 3
MORE = {
    "text alone": PromptConfig(text_length=3),
    "video alone": PromptConfig(video_length=2),
    "first layers": PromptConfig(text_length=2, video_length=2, last_layer=2),
    "as many layers as the text has": PromptConfig(video_length=2, last_layer=3),
    "last layers": PromptConfig(text_length=2, video_length=2, first_layer=3),
    "context alone": PromptConfig(context_length=2),
    "lstm": PromptConfig(context_length=2, video_length=1, cmm="lstm"),
    "transformer": PromptConfig(context_length=2, text_length=1, cmm="transformer"),
    "update_cls": PromptConfig(context_length=1, video_length=1, cmm_role="update_cls"),
    "all layers joint": PromptConfig(joint_length=2, split_layer=0),
    "joint in the middle": PromptConfig(
        video_length=1, joint_length=2, split_layer=2, first_layer=2, last_layer=3
    ),
    "narrow adapters": PromptConfig(adapter="mlp", adapter_width=5),
    "modelscope": PromptConfig(text_length=8, video_length=8, text_layout="modelscope"),
}


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(BACKBONE)


def drawn(backbone, config, seed=0):
    """An encoder, and variables in which everything added has a say."""
    rng = np.random.default_rng(seed)
    leaves = {
        path: jnp.asarray(rng.normal(0, 0.3, shape), jnp.float32)
        for path, shape in added_shapes(backbone.size, config).items()
    }
    variables = traverse_util.unflatten_dict(leaves, sep="/")
    return DualEncoder(backbone.size, config), {"params": backbone.params} | variables


def inputs(count, seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, FRAMES, 48, 48, 3), np.uint8)
    ids = np.zeros((count, 12), np.int32)
    for row, length in zip(ids, rng.integers(3, 13, count), strict=True):
        row[:length] = [80, *rng.integers(1, 80, length - 2), 81]
    return frames, ids


def saved(path, backbone, encoder, variables, method="", **changes):
    rows = (x for x, row in METHODS.items() if row.adds_some(encoder.prompt_config))
    method = method or next(rows)
    leaves = {k: np.asarray(v) for k, v in paths(variables).items() if "prompts/" in k}
    metadata = metadata_of(method, encoder.prompt_config, 4, backbone.sha256)
    save_tuned(path, leaves, backbone.size, metadata | changes)
    return path


CONFIGS = {
    **{
        name: row.prompt_config(4, FRAMES)
        for name, row in METHODS.items()
        if row.prompt_config(4, FRAMES) != PromptConfig(num_frames=FRAMES)
    },
    **{name: dataclasses.replace(x, num_frames=FRAMES) for name, x in MORE.items()},
}


@pytest.mark.parametrize(
    "name", slow_except(CONFIGS, "vop", "vop_fc", "adapter_ffn", "tempme")
)
def test_a_file_says_what_is_prompted(backbone, tmp_path, name):
    encoder, variables = drawn(backbone, CONFIGS[name])
    path = saved(tmp_path / "tuned.safetensors", backbone, encoder, variables)
    found = load_tuned(path, backbone.size, backbone.sha256)
    ours, theirs = found.prompts, CONFIGS[name]
    assert added_shapes(backbone.size, ours) == added_shapes(backbone.size, theirs)
    for layers in (3, 4):
        assert ours.prompted(layers) == theirs.prompted(layers)
        assert ours.bound_to_frames(layers) == theirs.bound_to_frames(layers)
    assert ours.split(4) == theirs.split(4)
    for field in ("num_frames", "text_layout", "cmm_role", "adapter"):
        assert getattr(ours, field) == getattr(theirs, field)
    assert ours.cmm == theirs.cmm or not theirs.context_length
    for path, value in found.leaves.items():
        np.testing.assert_array_equal(value, paths(variables)[path])


@pytest.fixture(scope="module")
def tuned(backbone, tmp_path_factory):
    encoder, variables = drawn(backbone, METHODS["vop_fc"].prompt_config(4, FRAMES))
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    return saved(path, backbone, encoder, variables), encoder, variables


@pytest.fixture(scope="module")
def model(tuned):
    return load(BACKBONE, tuned=tuned[0])


def test_a_model_is_printed_without_its_weights(model):
    printed = repr(model)
    assert printed.startswith("Model(Backbone(")
    assert f"embedding={model.backbone.size.embedding}), tuned=vop, num_f" in printed
    assert "\n" not in printed
    assert "array" not in printed


def test_features_are_those_of_the_encoder(model, tuned):
    _, encoder, variables = tuned
    frames, ids = inputs(5)
    video, text, _ = jax.jit(encoder.apply)(variables, frames, ids)
    np.testing.assert_allclose(model.encode_videos(frames), video, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(ids), text, atol=1e-5)
    assert model.encode_videos(frames).dtype == np.float32
    assert (model.num_frames, model.image_size) == (FRAMES, 48)
    # Padded with EOT, as Hugging Face does it, and of another type.
    ends = np.where((ids == 0), 81, ids).astype(np.int64)
    np.testing.assert_allclose(model.encode_texts(ends), text, atol=1e-5)
    lists = model.encode_texts(ids.tolist()), model.encode_videos(list(frames))
    np.testing.assert_allclose(lists[0], text, atol=1e-5)
    np.testing.assert_allclose(lists[1], video, atol=1e-5)


def test_odd_batches_compile_nothing_anew(model):
    frames, ids = inputs(19)
    video, text = model.encode_videos(frames, 8), model.encode_texts(ids)
    compiled = (
        model._embedder.embed_videos._cache_size(),
        model._embedder.embed_texts._cache_size(),
    )
    for count in (1, 2, 3, 5, 7, 11):
        some = model.encode_videos(frames[:count], 8)
        np.testing.assert_allclose(some, video[:count], atol=1e-5)
        np.testing.assert_allclose(
            model.encode_texts(ids[:count]), text[:count], atol=1e-5
        )
    more = model._embedder.embed_videos._cache_size() - compiled[0]
    # Eight devices take a multiple of eight: one shape.
    assert more == 0
    assert model.encode_videos(frames[:0]).shape == (0, 64)
    assert model.encode_texts([]).shape == (0, 64)


def test_a_cpu_is_given_few_videos_at_once(model, monkeypatch):
    given = []

    def put(mesh, batch):
        given.append(len(batch["x"]))
        return put_batch(mesh, batch)

    monkeypatch.setattr(embedder, "put_batch", put)
    frames, _ = inputs(8 * jax.device_count() + 3)
    found = model.encode_videos(frames, 1000)
    assert len(found) == len(frames)
    assert given == [8 * jax.device_count(), 8]
    monkeypatch.setattr(embedder, "_MOST_VIDEOS", {})
    given.clear()
    every = Embedder(model.encoder, model._embedder._mesh)
    every.frames(model.variables, frames, 1000)
    assert len(given) == 1


def test_frames_of_another_size_are_resized_as_clip_does_it(model):
    from data_pipelines.decoding.images import resize_frame

    rng = np.random.default_rng(3)
    large = rng.integers(0, 256, (1, FRAMES, 60, 90, 3), np.uint8)
    small = np.stack([resize_frame(x, 48) for x in large[0]])[None]
    np.testing.assert_array_equal(
        model.encode_videos(large), model.encode_videos(small)
    )


def test_video_files(model, tmp_path):
    from data_pipelines.datasets.demo.video_file import write_video

    path = tmp_path / "clip.mp4"
    write_video(
        path, np.random.default_rng(0).integers(0, 256, (24, 96, 96, 3), np.uint8)
    )
    frames = model.read_video(path)
    assert frames.shape == (FRAMES, 48, 48, 3)
    one = model.encode_videos([path])
    np.testing.assert_array_equal(one, model.encode_videos(frames[None]))
    (tmp_path / "bad.mp4").write_text("no video")
    with pytest.raises(UserError, match=r"bad\.mp4 is not a readable video"):
        model.encode_videos([path, tmp_path / "bad.mp4"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.encode_texts("a"), "takes a list"),
        (lambda m: m.encode_videos("a.mp4"), "takes a list"),
        (lambda m: m.encode_texts(np.zeros((2, 3))), "must be whole numbers"),
        (lambda m: m.encode_texts(np.full((2, 3), 82)), "from 0 to 81"),
        (lambda m: m.encode_texts(np.full((2, 3), 1)), "must hold the EOT token 81"),
        (lambda m: m.encode_videos(np.zeros((2, 3, 48, 48, 3))), "must be uint8"),
        (lambda m: m.encode_videos(np.zeros((2, 4, 48, 48, 3), np.uint8)), "4 frames"),
    ],
)
def test_mistakes_are_one_line(model, call, says):
    with pytest.raises(UserError, match=says):
        call(model)


def test_many_prompts_on_one_backbone_cost_their_own_size(model, backbone, tmp_path):
    bank = []
    for seed in range(1, 4):
        config = METHODS["vop"].prompt_config(4, FRAMES)
        encoder, variables = drawn(backbone, config, seed)
        path = saved(tmp_path / f"{seed}.safetensors", backbone, encoder, variables)
        bank.append(model.with_tuned(path))
    frames, _ = inputs(2)
    features = [one.encode_videos(frames) for one in bank]
    assert np.abs(features[0] - features[1]).max() > 1e-3
    own = {id(x): x for one in bank for x in jax.tree.leaves(one.variables)}
    shared = {id(x) for x in jax.tree.leaves(model.params)}
    added = sum(x.nbytes for key, x in own.items() if key not in shared)
    # 3 x (8 text prompts in 3 layers, 8 video prompts in 4), float32.
    assert added == 3 * 4 * (3 * 8 * 64 + 4 * 8 * 64)
    # Prompts of the same shapes are arguments of one program.
    assert len({id(one._embedder) for one in bank}) == 1
    assert len({one.fingerprint for one in [model, *bank]}) == 4


def test_another_backbone_is_refused(backbone, tuned, tmp_path):
    _, encoder, variables = tuned
    path = saved(
        tmp_path / "x.safetensors",
        backbone,
        encoder,
        variables,
        backbone_sha256="0" * 64,
    )
    with pytest.raises(UserError, match="trained on another backbone"):
        load(BACKBONE, tuned=path)
    assert load(BACKBONE, tuned=path, any_backbone=True).metadata["method"] == "vop"


def test_frames_of_a_bare_clip_are_free(tuned):
    assert load(BACKBONE).num_frames == 12
    assert load(BACKBONE, num_frames=5).num_frames == 5
    with pytest.raises(UserError, match="belong to 3 frame positions"):
        load(BACKBONE, tuned=tuned[0], num_frames=5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split_layer": "4"}, 'its vop_jax metadata.split_layer is "4"; it must be'),
        ({"num_frames": 0}, "metadata.num_frames is 0"),
        ({"text_layout": "other"}, "metadata.text_layout is"),
        ({"backbone_sha256": 3}, "metadata.backbone_sha256 is 3"),
        ({"format": 2}, "has format 2"),
    ],
)
def test_metadata_is_checked(backbone, tuned, tmp_path, changes, says):
    _, encoder, variables = tuned
    path = saved(tmp_path / "x.safetensors", backbone, encoder, variables, **changes)
    with pytest.raises(UserError, match=says):
        load(BACKBONE, tuned=path)


def test_what_is_no_model_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        vop_jax.load(tmp_path)
    (tmp_path / "ViT.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"python -m vop_jax\.convert"):
        vop_jax.load(tmp_path / "ViT.pt")
    (tmp_path / "config.json").write_text('{"method": "vop", "backbone": "demo"}')
    with pytest.raises(UserError, match="let the run finish first"):
        vop_jax.load(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="cannot be fetched from the Hugging Face hub"):
        vop_jax.load("nobody/nothing")


def test_the_dtype_that_a_model_computes_in(backbone):
    frames, ids = inputs(4)
    models = {dtype: load("demo", dtype=dtype) for dtype in ("float32", "bfloat16")}
    plain = load("demo")
    assert plain.dtype == "float32"
    assert {name: model.dtype for name, model in models.items()} == {
        name: name for name in models
    }
    # The index that a model made is not searched in another dtype.
    prints = {name: model.fingerprint for name, model in models.items()}
    assert prints["float32"] == plain.fingerprint != prints["bfloat16"]
    kernel = models["bfloat16"].params["vision"]["layers"]["mlp"]["fc_1"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    for encode, argument in (("encode_videos", frames), ("encode_texts", ids)):
        right, ours = (getattr(x, encode)(argument) for x in models.values())
        assert ours.dtype == np.float32
        assert 0 < np.abs(ours - right).max() < 0.02


def test_auto_is_float32_for_a_small_model_on_a_cpu():
    assert load("demo", dtype="auto").dtype == "float32"


def test_tuned_parameters_keep_the_dtype_of_their_backbone(backbone, tmp_path):
    encoder, variables = drawn(backbone, PromptConfig(text_length=2, num_frames=FRAMES))
    file = saved(tmp_path / "tuned.safetensors", backbone, encoder, variables)
    assert load("demo", dtype="bfloat16").with_tuned(file).dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", "", None, jnp.bfloat16])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(UserError, match="dtype is one of 'auto', 'float32'"):
        load("demo", dtype=dtype)
