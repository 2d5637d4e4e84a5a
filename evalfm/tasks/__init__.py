"""Tasks: cards, their cohort and truth in a manifest, and their metrics."""
