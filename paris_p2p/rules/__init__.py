"""Pure decisions, without torch, clock or network: claims, tips, trust, chunk plans, placement."""
