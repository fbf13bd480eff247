"""What a model sees: image vectors and activation maps."""
