"""One folder a method; `textmask.methods.registry.list_methods` lists the folders."""
