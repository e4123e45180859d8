"""Chooses the node that serves a request: filters remove candidates, a policy ranks the rest."""
