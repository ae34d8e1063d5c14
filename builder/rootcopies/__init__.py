"""Root filesystems of steps where FUSE can't be used: plain copies, compared after the step (ADR 30)."""
