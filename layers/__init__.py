"""OCI content: store, pack and unpack, images, registries."""
