"""The tests: `unit` mirrors the source, `scenarios` starts real processes, `house` keeps the rules of the code base."""
