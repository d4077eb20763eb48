"""The hardware: the device mesh, sharded parameters, chips, FLOPs.

Imports: console.
Start reading at `mesh`.
"""
