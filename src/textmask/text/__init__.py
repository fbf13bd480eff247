"""Sentences: what they claim, how they are rewritten, how they are encoded."""
