"""`python -m textmask`."""

from textmask.cli import main

main()
