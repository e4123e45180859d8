"""The journal of requests, from which traces are recovered after a crash."""
