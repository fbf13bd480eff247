"""One folder a method; `textmask.method.list_methods` lists the folders."""
