"""What peers of one slot send each other between checkpoints, and the merge that each computes alike."""
