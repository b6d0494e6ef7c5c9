"""Makes a run from clips: encoded, clustered, signed."""
