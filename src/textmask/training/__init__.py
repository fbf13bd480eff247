"""Train a method into a run folder."""
