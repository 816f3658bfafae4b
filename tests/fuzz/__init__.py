"""Fuzzing: targets, a corpus of the project's own making, and a runner for atheris."""
