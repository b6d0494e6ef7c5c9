"""Sets of pictures and clips that any machine can make, small enough to be carried to another."""
