"""Answers kept for requests that may be repeated."""
