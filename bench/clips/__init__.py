"""Footage that any machine can make: clips of three simulated worlds whose captions do not say which world
it is.
"""
