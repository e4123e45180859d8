"""Tests the real dispatcher under random but repeatable schedules of faults, and shrinks a schedule that fails."""
