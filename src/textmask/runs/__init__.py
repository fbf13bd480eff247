"""What a trained run is on disk, and the session that runs it."""
