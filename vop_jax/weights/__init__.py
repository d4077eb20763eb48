"""Weights on disk: read, recognised, converted, written; and tokenizers.

Imports: console, files, decoding, text, hub, runtime, surface, model, clip, prompts.
Start reading at `backbone`.
"""
