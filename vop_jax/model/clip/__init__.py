"""The frozen part: sizes, attention, layers, rematerialization policies.

Imports: nothing.
Start reading at `layers`.
"""
