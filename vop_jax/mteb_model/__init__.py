"""A model as mteb, the Massive Text Embedding Benchmark, evaluates it.

mteb is optional: `loading` alone may be imported without it.

Imports: console, decoding, hub, runtime, surface, model, weights, sharing.
Start reading at `loading`.
"""
