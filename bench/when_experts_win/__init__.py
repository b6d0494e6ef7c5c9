"""Holds the map of the claim: for which size, clusters and data experts are worth it."""
