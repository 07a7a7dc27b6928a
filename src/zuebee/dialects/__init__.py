"""PURE wire formats: bytes in, bytes out."""
