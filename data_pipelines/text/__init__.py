"""Captions: text cleaning, and the bucket lengths that token ids are padded to.

No TensorFlow and no JAX.

Imports: nothing.
Start reading at `captions`.
"""
