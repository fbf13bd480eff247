"""Score a run under a stated protocol, next to its baselines."""
