"""From a config to what a command works with: the only reader of a config below the commands."""
