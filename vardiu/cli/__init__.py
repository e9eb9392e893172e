r"""The command line: `main` finds the command, one file a command does it."""
