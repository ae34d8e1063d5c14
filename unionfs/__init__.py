"""Union filesystem in user space: branches with precedence, copy-up, whiteouts."""
