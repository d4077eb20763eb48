"""Converts videos into training shards, once; and diagnoses a data set.

Imports: console, files, text, catalog, decoding.
Start reading at `prepare`.
"""
