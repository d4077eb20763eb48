"""One update: loss, gradient, optimizer, step.

Imports: console, devices, model.
Start reading at `train_step`.
"""
