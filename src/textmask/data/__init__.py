"""Tables, layouts, checks, transforms, loaders and phantoms."""
