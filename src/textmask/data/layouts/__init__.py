"""Data sets as they lie on disk: which layout a folder has, and its rows."""
