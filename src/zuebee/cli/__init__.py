"""The command line."""

from zuebee.cli.main import app

__all__ = ["app"]
