"""Feature networks: arrays in, arrays out."""
