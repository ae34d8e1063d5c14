"""Headers of tar archives: those of ``unionfs.tar``."""

from unionfs.tar.writer import END, encode_header

__all__ = ["END", "encode_header"]
