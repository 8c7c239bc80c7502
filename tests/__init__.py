"""Checks of everything that we promise; modules that are no test_*.py are what several of them share."""
