"""Pixels to latents and back, text to embeddings."""
