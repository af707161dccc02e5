"""Scores: pure functions, and accumulators whose state merges by adding."""
