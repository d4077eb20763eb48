"""Your own videos and a CSV of captions to a tuned model, in one command.

Imports: console, files, text, catalog, decoding, datasets, preparing, feeding, runtime,
    devices, clip, model, weights, scoring, training, index.
Start reading at `steps`.
"""
