"""Packages are found. The folders that users edit stand at the top; installed, they are subpackages: one import name."""

from setuptools import find_packages, setup

BESIDE = ("callbacks", "conf", "slurm", "sweeps")

setup(
    packages=[
        *find_packages(include=["hct_lightning", "hct_lightning.*"]),
        *(f"hct_lightning.{name}" for name in BESIDE),
    ]
)
