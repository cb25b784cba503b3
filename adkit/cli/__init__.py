"""The command line: a file a command, with its options and what it does."""
