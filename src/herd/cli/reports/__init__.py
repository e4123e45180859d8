"""Commands that report the past use of the fleet."""
