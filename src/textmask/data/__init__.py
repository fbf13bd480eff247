"""Manifests, checks, transforms, loaders, facts about published data sets and synthetic images."""
