"""Manifests, layouts, checks, transforms, loaders and synthetic images."""
