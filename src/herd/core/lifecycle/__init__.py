"""The life of a request from arrival to its final trace row: placement, waiting, retries."""
