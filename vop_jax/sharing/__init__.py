"""A tuned model as others load it: saved, described by a card, pushed to the hub.

Imports: console, files, preparing, hub, runtime, surface, model, clip, weights.
Start reading at `saving`.
"""
