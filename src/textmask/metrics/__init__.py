"""Metrics whose names carry their protocol."""
