"""The metrics: features in, numbers out, each with its interval and its floor."""
