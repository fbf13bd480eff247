"""One run under changed prompts and damaged images."""
