"""The ledger on PostgreSQL, which many processes share."""
