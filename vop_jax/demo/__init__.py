"""The embedded demo's backbone: how it was pre-trained, and the files themselves.

Imports: console, files, text, datasets, model, clip, weights.
Start reading at `pretrain`.
"""
