"""Train a method and leave a run folder."""
