"""OpenAI's chat completions, read into the hub form and written from it."""
