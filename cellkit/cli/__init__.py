"""The command line: one file per verb, shared options in one file, one error boundary."""
