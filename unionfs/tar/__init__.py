"""Tar archives, written: a member as a value, its header, and the archive of a change stream."""
