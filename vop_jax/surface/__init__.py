"""Arguments of the Python interface: validated, and videos read by worker processes.

Imports: console, decoding.
Start reading at `inputs`.
"""
