"""Holds small things that run."""
