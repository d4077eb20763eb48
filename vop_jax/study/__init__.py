"""The paper's tables and figures as grids of runs.

Imports: console, files, runtime, pages, scoring, model, training.
Start reading at `grid`.
"""
