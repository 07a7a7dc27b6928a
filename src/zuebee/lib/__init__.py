"""Tools that know nothing of language models."""
