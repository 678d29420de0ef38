"""Runs on Slurm: the config group `slurm`, what submits, and what a rank knows of its job."""
