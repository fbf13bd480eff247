"""The HTTP service and the web page over a trained run (`textmask serve`)."""
