"""Where keys are looked up: configuration, databases, scripts, webhooks, a billing service."""
