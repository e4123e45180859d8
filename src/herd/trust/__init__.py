"""Who may come in and what they may do: keys, rights, browsers, addresses, pairing. Pure: no clock, socket, file or dice.

Everything here is asked by both processes and decides by value: random bytes and times are handed in, a verdict comes
out. What is kept where, and what is sent how, is `coordinator/` and `agent/`.
"""
