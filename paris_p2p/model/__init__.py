"""Defines the networks: experts, router, their presets and checkpoints."""
