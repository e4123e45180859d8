"""Contains the scenarios of the routing benchmark, one file each.

A file defines `SCENARIO = Scenario("S1", description, build)`. A load is a share of what the fleet could answer.
"""
