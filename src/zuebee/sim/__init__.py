"""A simulated OpenAI-compatible model server with faults on request: for demonstrations, tests and load."""
