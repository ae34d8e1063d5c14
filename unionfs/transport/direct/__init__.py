"""Kernel requests answered straight from /dev/fuse: the fast and complete transport."""
