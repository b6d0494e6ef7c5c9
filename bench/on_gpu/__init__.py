"""Measures and checks what this project computes on a GPU, and runs small on a CPU."""
