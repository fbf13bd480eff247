"""Self-contained HTML pages about one run or many."""
