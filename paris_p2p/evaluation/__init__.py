"""Whether a model is any good: clips made, compared and reported."""
