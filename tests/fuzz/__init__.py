"""`python -m tests.fuzz`: damages files of every format that is read, and watches what happens."""
