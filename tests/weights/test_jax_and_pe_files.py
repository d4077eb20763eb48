"""SigLIP's `.npz` of big_vision and PE-Core's own `.pt`; and damaged ones."""

import dataclasses
import zipfile

import numpy as np
import pytest
import torch
from small_clip import random_params
from small_families import PE_CORE, PE_CORE_G, SIGLIP

from data_pipelines.console.errors import UserError
from vop_jax.model.clip.sizes import FrameRecipe, Rotary
from vop_jax.weights.backbone import load_backbone
from vop_jax.weights.clip_export import convert

HALF = (0.5, 0.5, 0.5)
# As many heads of the pooling as Perception Encoder's have.
PE = {
    name: dataclasses.replace(
        size,
        vision=dataclasses.replace(
            size.vision, width=64, heads=4, pooling_heads=8, rotary=rotary
        ),
    )
    for name, size, rotary in (
        ("pe_core", PE_CORE, Rotary("xy", 1.0)),
        ("pe_core_g", PE_CORE_G, Rotary("xy")),
    )
}


def layers_of(tower, count):
    """The layers of a tower, one tree for each."""

    def at(tree, i):
        if isinstance(tree, dict):
            return {name: at(value, i) for name, value in tree.items()}
        return tree[i]

    return [at(tower["layers"], i) for i in range(count - 1)] + [tower["last_layer"]]


def flat(tree, path):
    if not isinstance(tree, dict):
        return {path: np.asarray(tree)}
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{path}/{name}" if path else name)
    return found


def flax_layer(layer):
    return {
        "LayerNorm_0": layer["ln_1"],
        "LayerNorm_1": layer["ln_2"],
        "MultiHeadDotProductAttention_0": layer["attention"],
        "MlpBlock_0": {
            "Dense_0": layer["mlp"]["fc_1"],
            "Dense_1": layer["mlp"]["fc_2"],
        },
    }


def flax_tower(tower, count, norm):
    blocks = enumerate(layers_of(tower, count))
    named = {f"encoderblock_{i}": flax_layer(layer) for i, layer in blocks}
    return {**named, "encoder_norm": tower[norm]}


def big_vision(size, params):
    """Our parameters as big_vision's two towers have them, whose layouts are ours."""
    vision, text = params["vision"], params["text"]
    pooling = vision["pooling"]
    tree = {
        "t": params["logit_scale"].reshape(1),
        "b": params["logit_bias"].reshape(1),
        "img": {
            "embedding": {
                "kernel": vision["patch_embedding"],
                "bias": vision["patch_bias"],
            },
            "pos_embedding": vision["position_embedding"][None],
            "Transformer": flax_tower(vision, size.vision.layers, "ln_post"),
            "MAPHead_0": {
                "probe": pooling["probe"][None, None],
                "MultiHeadDotProductAttention_0": pooling["attention"],
                "LayerNorm_0": pooling["ln"],
                "MlpBlock_0": {
                    "Dense_0": pooling["mlp"]["fc_1"],
                    "Dense_1": pooling["mlp"]["fc_2"],
                },
            },
        },
        "txt": {
            "Embed_0": {"embedding": text["token_embedding"]},
            "pos_embedding": text["position_embedding"][None],
            "Encoder_0": flax_tower(text, size.text.layers, "ln_final"),
            "head": {"kernel": text["projection"], "bias": text["projection_bias"]},
        },
    }
    return flat(tree, "params")


def same(one, other):
    one, other = flat(one, ""), flat(other, "")
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_array_equal(other[path], value, err_msg=path)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A file of big_vision, and the parameters in it."""
    params = random_params(SIGLIP)
    path = tmp_path_factory.mktemp("npz") / "siglip.npz"
    np.savez(path, **big_vision(SIGLIP, params))
    return path, params


def test_siglip_of_big_vision(siglip, tmp_path, capsys):
    path, params = siglip
    convert(path, tmp_path / "ours", "huggingface", "", (3, 2))
    found = load_backbone(tmp_path / "ours")
    same(found.params, params)
    # What shapes do not say is as in the published models: statistics, whole patches.
    expected = dataclasses.replace(
        SIGLIP, image_size=24, frames=found.size.frames, family=found.size.family
    )
    assert found.size == expected
    assert found.size.frames.mean == (0.5, 0.5, 0.5)
    assert "big_vision -> huggingface" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x.pop("params/t"), "missing params/t"),
        (lambda x: x.update(other=x["params/t"]), "unexpected other"),
        (lambda x: x.update({"params/t": np.array([1])}), "holds int64, not floating"),
        (lambda x: x.update({"params/t": np.array([np.nan])}), "NaN, infinity"),
        (lambda x: x.update({"params/t": np.array([99.0])}), "logit_scale is 99"),
        (lambda x: x.update({"params/b": np.array([1e6])}), "logit_bias is 1e.06"),
        (lambda x: x.update({"params/t": np.array(["a"])}), "not floating-point"),
        (lambda x: x.update({"params/t": np.array([{}])}), "not floating|compressed"),
        (lambda x: x.update({"params/img/MAPHead_0/probe": np.ones(3)}), "probe|fit"),
    ],
)
def test_another_npz_is_one_line(siglip, tmp_path, change, says):
    arrays = big_vision(SIGLIP, siglip[1])
    change(arrays)
    np.savez(tmp_path / "x.npz", **arrays)
    refused(tmp_path, "x.npz", says)


def refused(folder, name, says):
    with pytest.raises(UserError, match=says) as error:
        convert(folder / name, folder / "ours", "huggingface", "", (3, 2))
    assert "\n" not in str(error.value)
    assert not (folder / "ours").exists()


def test_a_damaged_npz_is_one_line(siglip, tmp_path):
    content = siglip[0].read_bytes()
    path = tmp_path / "x.npz"
    path.write_bytes(content[: len(content) // 2])
    refused(tmp_path, "x.npz", "is damaged")
    place = content.index(b"NUMPY") + 1000
    path.write_bytes(content[:place] + b"\xff\xff" + content[place + 2 :])
    refused(tmp_path, "x.npz", "wrong checksum|NaN|is damaged")
    np.savez_compressed(path, **big_vision(SIGLIP, siglip[1]))
    refused(tmp_path, "x.npz", "compressed or encrypted; save it uncompressed")
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, "
    for shape in (b"(1000000000,)", b"(-1,)", b"('a',)", b"(" * 40):
        text = (header + b"'shape': " + shape + b", }").ljust(127) + b"\n" + b"\0" * 8
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", text)
        refused(tmp_path, "x.npz", "instead of|no header|a shape that no array")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.txt", "x")
    refused(tmp_path, "x.npz", "which is not an array of NumPy")


def perception(size, params):
    """Our parameters under the names of Perception Encoder's files."""
    named = {"logit_scale": params["logit_scale"]}
    vision, text = params["vision"], params["text"]

    def norm(name, tree):
        named[f"{name}.weight"], named[f"{name}.bias"] = tree["scale"], tree["bias"]

    def linear(name, tree):
        named[f"{name}.weight"], named[f"{name}.bias"] = tree["kernel"].T, tree["bias"]

    def attention(name, tree):
        three = [tree[x] for x in ("query", "key", "value")]
        width = three[0]["kernel"].shape[0]
        kernels = [x["kernel"].reshape(width, -1).T for x in three]
        named[f"{name}.in_proj_weight"] = np.concatenate(kernels)
        biases = [x["bias"].reshape(-1) for x in three]
        named[f"{name}.in_proj_bias"] = np.concatenate(biases)
        named[f"{name}.out_proj.weight"] = tree["out"]["kernel"].reshape(width, -1).T
        named[f"{name}.out_proj.bias"] = tree["out"]["bias"]

    for start, tower, count in (
        ("visual.", vision, size.vision.layers),
        ("", text, size.text.layers),
    ):
        for i, layer in enumerate(layers_of(tower, count)):
            block = f"{start}transformer.resblocks.{i}"
            norm(f"{block}.ln_1", layer["ln_1"])
            norm(f"{block}.ln_2", layer["ln_2"])
            attention(f"{block}.attn", layer["attention"])
            linear(f"{block}.mlp.c_fc", layer["mlp"]["fc_1"])
            linear(f"{block}.mlp.c_proj", layer["mlp"]["fc_2"])
    if size.vision.class_token:
        named["visual.class_embedding"] = vision["class_embedding"]
    named["visual.conv1.weight"] = vision["patch_embedding"].transpose(3, 2, 0, 1)
    named["visual.positional_embedding"] = vision["position_embedding"]
    named["visual.proj"] = vision["projection"]
    norm("visual.ln_pre", vision["ln_pre"])
    norm("visual.ln_post", vision["ln_post"])
    pooling = vision["pooling"]
    named["visual.attn_pool.probe"] = pooling["probe"][None, None]
    attention("visual.attn_pool.attn", pooling["attention"])
    norm("visual.attn_pool.layernorm", pooling["ln"])
    linear("visual.attn_pool.mlp.c_fc", pooling["mlp"]["fc_1"])
    linear("visual.attn_pool.mlp.c_proj", pooling["mlp"]["fc_2"])
    named["token_embedding.weight"] = text["token_embedding"]
    named["positional_embedding"] = text["position_embedding"]
    named["text_projection"] = text["projection"]
    norm("ln_final", text["ln_final"])
    return {k: torch.tensor(np.ascontiguousarray(x)) for k, x in named.items()}


@pytest.mark.parametrize("name", PE)
def test_perception_encoders_own_file(name, tmp_path):
    size = dataclasses.replace(PE[name], vocabulary=49408, eos_id=49407)
    params = random_params(size)
    path = tmp_path / "PE-Core.pt"
    torch.save(perception(size, params), path)
    convert(path, tmp_path / "ours", "huggingface", "", (4, 2))
    found = load_backbone(tmp_path / "ours")
    same(found.params, params)
    assert found.size == dataclasses.replace(size, frames=found.size.frames)
    assert found.size.frames == FrameRecipe("squash", "bilinear", HALF, HALF)


def test_a_captioners_pooling_is_refused(tmp_path):
    size = dataclasses.replace(PE["pe_core"], vocabulary=49408, eos_id=49407)
    state = perception(size, random_params(size))
    state["visual.attn_pool.query"] = torch.ones(3, 4)
    torch.save(state, tmp_path / "x.pt")
    refused(tmp_path, "x.pt", "a captioner's CLIP that pools by several queries")


def test_an_unknown_tower_of_timm_is_refused(tmp_path):
    torch.save({"visual.trunk.embeds.proj.weight": torch.ones(3, 4)}, tmp_path / "x.pt")
    refused(tmp_path, "x.pt", "none of SigLIP, PE-Core and EVA02-CLIP")
