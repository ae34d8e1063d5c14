"""Namespaces, mounts and cgroups around one build step."""
