"""A swarm of twelve peers that are killed, halted and cut off, beside the same swarm undisturbed."""
