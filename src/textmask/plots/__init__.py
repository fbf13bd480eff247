"""Overlays, charts and curves, made from arrays."""
