"""The texts of answers: halves of characters that were cut apart, and how many tokens a text has at least."""
