"""What the coordinator knows: the fleet, requests, events and commands as plain values, and the queues between them."""
