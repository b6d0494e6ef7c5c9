"""The maths: path, loss, sampler, routed mixture."""
