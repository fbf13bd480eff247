"""Pixels in and out, with their geometry."""
