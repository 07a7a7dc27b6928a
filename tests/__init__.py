"""`unit` mirrors the source, `scenarios` starts real processes, `house` keeps the code base in order."""
