"""The main job on a small world: fixtures."""

import pytest

from configs.vop import get_config
from data_pipelines.datasets.demo import world
from vop_jax.training.config import check_config

# Videos of each split.
SPLITS = {"train": 48, "validation": 16, "test": 32}


@pytest.fixture(scope="module", autouse=True)
def small_world():
    patch = pytest.MonkeyPatch()
    patch.setattr(world, "SPLITS", SPLITS)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


def config(data_dir, short_form="", **changes):
    # The method that compiles fastest; nothing of the job knows which one it runs.
    values = get_config(f"method=vop,{short_form}").to_dict()
    values |= {"data_dir": data_dir, "epochs": 2, "batch_size": 16, "save_every": 2}
    values |= {"log_every": 1, "group_size": 4}
    for name, value in changes.items():
        target = values
        *outer, last = name.split("__")
        for key in outer:
            target = target[key]
        target[last] = value
    return check_config(values)
