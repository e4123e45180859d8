"""One scenario a file: `SCENARIO = Scenario("S1", what, build)`. Loads are shares of what the fleet could answer."""
