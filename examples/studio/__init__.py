"""Plays a studio's weekend: a private run on five machines, and somebody who watches: `scripts/studio`."""
