"""The `turntable` command, and how every command shows tables."""
