"""The ledger: what was granted, held and used, kept on disk together with the usage records."""
