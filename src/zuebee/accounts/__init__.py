"""Organizations, teams, users, keys, plans."""
