"""Compares decentralized experts with one model at matched data and compute; PROTOCOL.md says how."""
