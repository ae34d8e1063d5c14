"""One member of an archive, as a value: that of ``unionfs.tar``."""

from unionfs.tar.entry import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER_DEVICE,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    LARGEST_PATH_BYTES,
    NO_XATTRS,
    REGULAR,
    SYMLINK,
    Entry,
    padding,
    show,
)

__all__ = [
    "BLOCK",
    "BLOCK_DEVICE",
    "CHARACTER_DEVICE",
    "DIRECTORY",
    "FIFO",
    "HARD_LINK",
    "LARGEST_PATH_BYTES",
    "NO_XATTRS",
    "REGULAR",
    "SYMLINK",
    "Entry",
    "padding",
    "show",
]
