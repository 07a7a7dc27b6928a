"""The command line."""

from zuebee.cli.main import app, main

__all__ = ["app", "main"]
