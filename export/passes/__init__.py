"""Passes: functions from a `Network` to another."""
