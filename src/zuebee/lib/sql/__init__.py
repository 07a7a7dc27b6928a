"""Databases: addresses, connections, errors."""
