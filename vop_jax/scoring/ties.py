"""The policies that say how equal similarities count in a rank."""

# Tie policy -> the fraction of the ties that a rank counts.
SHARES = {"mean": 0.5, "optimistic": 0.0, "pessimistic": 1.0}
TIES = (*SHARES, "clip4clip")
