"""A Dockerfile becomes a graph of steps, steps run in sandboxes, results become an image."""
