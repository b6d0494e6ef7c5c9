"""Property tests guard claims, not speed: a slow machine must not fail them."""

from hypothesis import HealthCheck, settings

settings.register_profile("paris", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("paris")
