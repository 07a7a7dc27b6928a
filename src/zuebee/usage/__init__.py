"""Keep what was used."""
