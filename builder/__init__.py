"""A Dockerfile becomes a graph of steps, steps run in sandboxes, results become an image."""

__version__ = "0.1.0"
"""The version of the project; pyproject.toml takes it from here."""
