"""The embedded demo's backbones: how they were pre-trained, and the files themselves.

Imports: console, files, text, datasets, model, clip, optimization, weights.
Start reading at `pretrain`.
"""
