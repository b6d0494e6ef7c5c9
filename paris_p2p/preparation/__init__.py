"""From clips to a run: encoded, clustered, signed."""
