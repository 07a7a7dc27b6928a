"""One form for all dialects of chat, and which dialects there are."""
