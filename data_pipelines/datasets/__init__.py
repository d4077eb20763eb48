"""The data sets, a folder each, listed in `catalog.table`.

A folder holds the reader of the published annotation files, the TFDS builder, a README,
the citation and dummy annotations.

Imports: console, files, catalog, preparing.
Start reading at `msrvtt`.
"""
