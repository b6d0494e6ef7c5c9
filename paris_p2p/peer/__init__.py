"""A volunteer's peer: claim a slot, supervise its trainer, attest others' checkpoints, hand over, report."""
