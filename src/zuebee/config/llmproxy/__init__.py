"""Configuration files of LLMProxy, and the names that the seeds give to settings."""
