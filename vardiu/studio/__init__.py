r"""`vardiu studio`: a page on this machine that shows runs and carries out commands."""
