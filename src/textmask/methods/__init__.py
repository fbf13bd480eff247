"""One folder per method; `textmask.methods.registry.list_methods` lists the folders."""
