"""From prepared shards to batches.

The only room, besides the data sets' builders, that imports TensorFlow.

Imports: console, files, text, catalog, decoding, preparing.
Start reading at `feed`.
"""
