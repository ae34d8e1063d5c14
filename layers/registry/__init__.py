"""Registries spoken to over the distribution specification."""
