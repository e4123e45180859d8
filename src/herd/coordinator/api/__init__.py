"""Every route that is not inference: status, dashboard, models, keys, settings."""
