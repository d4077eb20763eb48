"""Plans runs on TPU slices ahead of time, without a TPU.

Imports: console, devices, model, clip, optimization, training.
Start reading at `programs`.
"""
