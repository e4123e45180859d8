"""SQLite and files: traces, roll-ups, learned values, credentials."""
