"""Makes footage on any machine: clips of three simulated worlds whose captions do not say which it is."""
