"""Trains one slot: the loop, its objective, and the gate that measures checkpoints."""
