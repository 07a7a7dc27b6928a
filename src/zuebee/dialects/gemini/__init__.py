"""Google's Gemini behind the gateway: requests written for it, its answers read."""
