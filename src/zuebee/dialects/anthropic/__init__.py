"""Anthropic's Messages API: requests, answers, streams and errors, as its clients and its servers write them."""
