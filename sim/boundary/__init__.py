"""Tests the coordinator with its I/O boundary under schedules of faults: virtual clock, connections in memory."""
