"""A coordinator's core among nodes that do everything wrong: seeded schedules, played against the real dispatcher, shrunk when one fails."""
