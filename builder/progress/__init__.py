"""Renderings of the event stream."""
