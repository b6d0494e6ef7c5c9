"""This disk: content-addressed blobs, partial downloads, records, caps."""
