"""Stores and applies what an administrator sets for single nodes."""
