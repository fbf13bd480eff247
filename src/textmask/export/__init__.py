"""Write a run as files for other programs, and import weights from other sources."""
