"""`python -m zuebee`, and the console script `zuebee`."""

import gc


def main() -> None:
    """The console script."""
    # Imports make much that stays, and nearly nothing of it is garbage: a start that looks for some after each
    # 700 objects, and once more at its end, takes a quarter longer.
    gc.set_threshold(50_000, 20, 20)
    from zuebee.cli import app

    try:
        app()
    finally:
        gc.freeze()


if __name__ == "__main__":
    main()
