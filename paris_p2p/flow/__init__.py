"""Holds the mathematics of flow matching: the path, its loss, sampling, and the routed mixture."""
