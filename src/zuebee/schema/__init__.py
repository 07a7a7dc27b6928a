"""The tables of the store, and how they came to be (migrations)."""
