"""The Dockerfile language: text to instructions."""
