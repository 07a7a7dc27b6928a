"""Plugins of every test run."""

pytest_plugins = ["tests.support.requirements_plugin"]
