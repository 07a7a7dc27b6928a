"""Talk to one backend."""
