"""Comparisons of trainings (grid), of inputs (robustness), of features (probes), and of papers (claims)."""
