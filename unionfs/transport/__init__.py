"""Transports carry kernel requests to a FilesystemOps and its answers back."""
