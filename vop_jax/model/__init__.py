"""What is computed: the two towers, what is prompted, what is trained.

Imports: console, text, feeding, runtime, devices, scoring, clip, prompts.
Start reading at `dual_encoder`.
"""
