"""One file a command: the only code, besides main.py and config.py, that sees a config."""
