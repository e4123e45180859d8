"""Answers that another node completes: the rest of a text, and a second answer that is compared with the first."""
