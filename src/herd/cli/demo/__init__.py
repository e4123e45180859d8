"""The demonstration `herd demo`: a coordinator and three small nodes on this machine, with a few chats."""
