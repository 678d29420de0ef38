"""Runs on Slurm: the config group `slurm`, what submits, and the state of what was submitted."""
