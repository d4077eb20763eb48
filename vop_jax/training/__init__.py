"""One run: configuration, data, loop, checkpoints, report.

Imports: console, files, text, catalog, preparing, feeding, runtime, devices, pages,
    scoring, model, clip, prompts, weights, optimization.
Start reading at `job`.
"""
