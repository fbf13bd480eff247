"""What a trained run is on disk."""
