"""Training-time mitigations, one a file, found by themselves."""
