"""LSMDC: clips of films with the descriptions written for the blind."""
