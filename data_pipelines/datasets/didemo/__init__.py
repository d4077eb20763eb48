"""DiDeMo: 10,000 personal videos, several described moments each."""
