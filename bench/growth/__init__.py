"""A run that grows, on real clips: a third world's clips join a run of two, and its expert is split off."""
