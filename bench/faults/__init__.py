"""A soak: real engines are killed, frozen and restarted under load, and every request is accounted for."""
