"""Commands that act on single nodes."""
