"""A data set of one's own: a CSV or JSONL of videos and captions."""
