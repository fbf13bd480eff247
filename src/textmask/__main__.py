"""`python -m textmask`."""

from textmask.cli import main

if __name__ == "__main__":
    main()
