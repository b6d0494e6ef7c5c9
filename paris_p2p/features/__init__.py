"""Runs feature networks: arrays in, arrays out."""
