"""Plugins of every test run."""

from hypothesis import settings

pytest_plugins = ["tests.support.fakes", "tests.support.requirements_plugin"]

# Quick enough to run after each change. No deadline: the machine may be busy.
settings.register_profile("quick", max_examples=40, deadline=None)
settings.load_profile("quick")
