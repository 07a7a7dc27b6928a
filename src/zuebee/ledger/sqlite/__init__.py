"""The ledger on SQLite, in the memory of the one process that serves from its file."""
