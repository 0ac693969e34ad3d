"""The commands of the command line, by group; `cli.py` puts them together."""
