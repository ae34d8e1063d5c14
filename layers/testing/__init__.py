"""What tests of layers and of its users need: random images, a registry that fails on demand."""
