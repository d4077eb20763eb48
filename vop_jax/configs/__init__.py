"""Configurations that are installed with the package.

Imports: training.
Start reading at `vop`, which `vop-jax train` uses where none is given.
"""
