"""Reads clips: decoding, splits, clusters, webdataset shards and deterministic batches."""
