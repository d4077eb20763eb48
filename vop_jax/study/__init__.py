"""The paper's tables and figures, and later methods, as grids of runs.

Imports: console, files, runtime, devices, pages, scoring, model, optimization,
    training.
Start reading at `grid`.
"""
