"""The gate between applications and large language models."""

__version__ = "0.2.0"
