"""What is said about running requests."""
