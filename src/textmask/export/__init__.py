"""Write a run as files for other programs, and read weights that came from elsewhere."""
