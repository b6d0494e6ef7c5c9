"""Clips in: decode, splits, clusters, webdataset shards, deterministic batches."""
