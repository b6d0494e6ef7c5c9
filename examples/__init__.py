"""Small things that run."""
