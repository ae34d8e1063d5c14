"""What was built from what: keys, index, pruning."""
