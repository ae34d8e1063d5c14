"""Images from anywhere to anywhere, as they are: registries, layouts, archives, the store."""
