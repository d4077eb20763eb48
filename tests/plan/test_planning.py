"""Plans of slices: counts, the search for a batch, and real compilations for a TPU."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from data_pipelines.console.errors import UserError
from vop_jax.devices.config import MeshConfig
from vop_jax.devices.flops import count_flops
from vop_jax.devices.mesh import make_mesh
from vop_jax.model.clip.families import SIZES
from vop_jax.model.compute import ComputeConfig
from vop_jax.model.dual_encoder import DualEncoder
from vop_jax.model.prompts.config import PromptConfig
from vop_jax.model.shapes import abstract_variables
from vop_jax.plan import programs as planning
from vop_jax.plan import topology
from vop_jax.plan.collectives import count_collectives
from vop_jax.plan.programs import RunPrograms, largest_batch
from vop_jax.training.config import check_config, default_values

NO_LIBTPU = "libtpu is not installed; .ci/run shows how to run these tests"
HLO = """
HloModule m, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %c = f32[] add(%a, %b)
}

%body.1 (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %g.2 = bf16[8,16]{1,0:T(8,128)(2,1)} all-gather(%x), dimensions={0}
  ROOT %t = (s32[], f32[8]) tuple(%i, %y)
}

%wrapped (p: f32[64]) -> f32[16] {
  ROOT %r = f32[16]{0} reduce-scatter(%p), to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0}) while(%init), condition=%c, body=%body.1, TRIPS
  %s = (f32[4,2]{1,0}, f32[8,2]{1,0}) all-gather-start(%p), dimensions={0}
  %d = f32[8,2]{1,0} all-gather-done(%s)
  %a = ((f32[64]), f32[16], s32[]) async-start(%p), calls=%wrapped
  ROOT %o = (f32[3]{0}, f32[5]{0}) all-reduce(%q, %z), to_apply=%add
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"11"}}')


def test_collectives_are_counted_as_often_as_they_run():
    found = count_collectives(HLO)
    assert {(x.kind, x.type, x.size): times for x, times in found.items()} == {
        ("all-gather", "bf16[8,16]", 256): 11,
        ("all-gather", "f32[8,2]", 64): 1,
        ("reduce-scatter", "f32[16]", 64): 1,
        ("all-reduce", "f32[3] f32[5]", 32): 1,
    }


@pytest.mark.parametrize("scan", [True, False])
def test_flops_are_those_of_the_unrolled_program(scan):
    size, config = SIZES["demo"], PromptConfig(text_length=2, video_length=2)
    variables = abstract_variables(size, config)
    frames = jax.ShapeDtypeStruct((2, 3, 48, 48, 3), jnp.uint8)

    def gradient(scan):
        model = DualEncoder(size, config, ComputeConfig(scan=scan))

        def run(prompts, variables, frames):
            return jax.grad(
                lambda prompts: model.apply(
                    {**variables, "prompts": prompts}, frames, method="encode_videos"
                ).sum()
            )(prompts)

        return jax.jit(run), (variables["prompts"], variables, frames)

    unrolled, arguments = gradient(scan=False)
    whole = unrolled.lower(*arguments).cost_analysis()["flops"]
    # The rest of it is norms, softmax and activations, which are much of a tiny model;
    # a loop also finds the gradient of what enters the first layer, which nobody uses.
    share = count_flops(gradient(scan)[0], *arguments) / whole
    assert 0.9 < share < 1.04


@pytest.mark.parametrize("room", [1, 7, 100, 1033, 5000, 40000])
@pytest.mark.parametrize("fixed", [0.0, 0.3])
def test_the_search_finds_the_largest_batch(room, fixed):
    tries = []

    def fits(batch):
        tries.append(batch)
        share = fixed + (1 - fixed) * batch / (4 * room)
        return share if share < 1.1 else None

    found = largest_batch(fits, multiple=4, start=128, limit=65536)
    assert found % 4 == 0
    most = min(4 * room, 65536)
    assert most * 0.96 - 4 <= found <= most
    assert len(tries) <= 14


def test_a_search_without_room_says_so():
    assert largest_batch(lambda batch: None, multiple=4, start=64, limit=4096) == 0


@pytest.mark.slow
def test_the_planned_programs_are_those_that_run():
    """On a mesh of CPUs, where one can look: the batch is shared, prompts are whole."""
    values = default_values("vop", backbone="demo")
    values["batch_size"] = 16
    config = check_config(values)
    mesh = make_mesh(MeshConfig(data=2), jax.devices()[:2])
    program = RunPrograms(config, SIZES["demo"], mesh, caption_tokens=8).train_step(16)
    frames = 8 * config.num_frames * 48 * 48 * 3
    assert program.arguments > frames
    assert program.temporaries > 0
    kinds = sorted(x.kind for x in program.collectives.elements())
    assert kinds == ["all-gather", "all-reduce", "reduce-scatter"]


def test_no_room_is_no_error(monkeypatch):
    class Function:
        def lower(self, *_):
            return self

        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 20G of 16G")

    with pytest.raises(planning.DoesNotFit, match="20G of 16G"):
        planning.measure(Function())


def test_without_libtpu_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^libtpu.* REQUIREMENTS=requirements-tpu.txt"):
        topology.find_topology("v5e:2x2")


def test_an_unknown_generation_is_refused():
    with pytest.raises(UserError, match="must be one of v4, v5e, v5p, v6e"):
        topology.find_topology("v3:2x2")


def plan(cache, *flags):
    """The command's JSON for ViT-B/32, 12 frames, bfloat16."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.fail(NO_LIBTPU, pytrace=False)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "vop_jax.pod_plan", "--json", "--noevaluation"),
            "--config=configs/vop.py:method=vop,backbone=vit_b32",
            *("--config.num_frames=12", "--config.compute.dtype=bfloat16"),
            *("--config.compute.scan=true", *flags),
        ],
        env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
        | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.tpu_plugin
@pytest.mark.parametrize(("remat", "most"), [("lean", 1000), ("full", 360)])
def test_temporaries_of_a_chip(remat, most, tmp_path):
    found = plan(
        tmp_path,
        "--topology=v5e:2x2",
        "--config.batch_size=32",
        f"--config.compute.remat={remat}",
    )
    step = found["programs"]["train step"]
    assert step["temporaries"] <= most * 2**20
    sent = [(x["kind"], x["type"]) for x in step["collectives"]]
    assert sent.count(("all-gather", "f32[32,1024]")) == 1
    assert sent.count(("all-reduce", "f32[122881]")) == 1
    # Besides, only the gradient of the features.
    assert len(sent) == 3
    # A program that is stored cannot be loaded again, and a second plan would warn.
    assert not list(tmp_path.iterdir())


@pytest.mark.tpu_plugin
def test_a_slice_that_is_none_is_one_line():
    if importlib.util.find_spec("libtpu") is None:
        pytest.fail(NO_LIBTPU, pytrace=False)
    with pytest.raises(UserError, match="--topology=v5e:3x7"):
        topology.find_topology("v5e:3x7")
