"""Videos to training batches: decoding, preparation, the feed. No JAX in here."""
