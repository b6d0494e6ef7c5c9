"""Property tests guard claims, not speed: a slow machine must not fail them."""

from hypothesis import settings

settings.register_profile("paris", deadline=None)
settings.load_profile("paris")
