"""A tuned model as others load it: saved, described by a card, pushed to the hub.

Imports: console, files, preparing, hub, runtime, scoring, surface, model, clip,
    weights.
Start reading at `saving`.
"""
