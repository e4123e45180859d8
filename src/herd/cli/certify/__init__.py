"""Checks what a model can do through each client API (`herd certify`): see `steps.py`."""
