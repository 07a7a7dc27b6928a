"""What clients touch."""
