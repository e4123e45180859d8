"""Edits configuration files as texts: comments, order and everything else in them stay as they are."""
