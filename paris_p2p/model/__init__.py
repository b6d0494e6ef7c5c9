"""The networks: video DiT expert, router, presets."""
