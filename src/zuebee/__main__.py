"""`python -m zuebee` is the console script `zuebee`."""

from zuebee.cli import main

if __name__ == "__main__":
    main()
