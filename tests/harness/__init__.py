"""What tests of several parts share: capability probes, leak checks, base images, private daemons."""
