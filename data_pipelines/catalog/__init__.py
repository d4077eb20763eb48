"""The known data sets, and the reading of their annotation files.

Imports: console, files.
Start reading at `table`.
"""
