"""Turns pixels into latents and back, and text into embeddings."""
