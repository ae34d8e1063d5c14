#!/bin/sh
echo "Hello from a container that runs as uid $(id -u)"
