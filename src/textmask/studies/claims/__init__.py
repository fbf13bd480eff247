"""Claims of the papers, judged by our own figures."""
