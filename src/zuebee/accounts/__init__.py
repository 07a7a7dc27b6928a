"""Organisations, teams, users, keys, plans."""
