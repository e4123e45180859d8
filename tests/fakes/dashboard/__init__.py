"""Provides fleets, histories and charts for the tests of the dashboard."""
