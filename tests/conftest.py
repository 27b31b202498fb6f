"""What holds for all tests."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# How fast an example is made or run says how busy the machine is, not whether the property holds. In a fresh clone the
# first example is slow in any case: Hypothesis makes its tables of characters.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("unhurried")
