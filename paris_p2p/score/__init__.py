"""Turns features into metrics, each a number with its interval and its floor."""
