"""Prompt-tuning a frozen CLIP for text-video retrieval.

    vop-jax train
    python -m vop_jax.main --config=configs/vop.py
    python -m vop_jax.main --config=configs/vop.py:method=vop_f,dataset=demo
    python -m vop_jax.main --config=configs/vop.py --config.optimizer.learning_rate=3e-3

The short form takes `method`, `dataset` and `backbone`; everything else is a field;
`python -m vop_jax.main --help` lists all of them.
"""

from ml_collections import ConfigDict

from vop_jax.training.config import default_values, parse_short_form


def get_config(short_form: str = "") -> ConfigDict:
    """The configuration of a run; see `vop_jax.training.config` for what is checked."""
    return ConfigDict(default_values(**parse_short_form(short_form))).lock()
