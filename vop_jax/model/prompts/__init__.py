"""What is added to a frozen CLIP: prompt sources, context, adapters, the layer plan.

Imports: console, clip.
Start reading at `sources`.
"""
