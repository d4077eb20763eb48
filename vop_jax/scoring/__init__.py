"""Similarities to metrics: ranks, ties, intervals, hub corrections, tables.

`evaluate --similarity` needs only this room: it imports neither JAX nor TensorFlow.
The split that `results` scores is passed in; `feeding` names its type.

Imports: console, files, surface, feeding.
Start reading at `metrics`.
"""
