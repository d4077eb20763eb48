"""Your own data set: a CSV or JSONL file of videos and captions."""
