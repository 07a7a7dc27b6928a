"""What the gate costs, measured beside its peers. See README.md."""
