"""The private network of steps: a hub between theirs and that of the host, its way out, ports let in."""
