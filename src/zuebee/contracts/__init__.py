"""PURE. What the rooms know of one another."""
