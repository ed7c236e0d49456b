"""The command line: chat, run, pull, list, show, bench."""
