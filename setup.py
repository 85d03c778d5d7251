"""Adds the config groups and the recipes to the package; everything else is declared in pyproject.toml.

`conf/` lies beside the package in a checkout, and inside it, as `pixelflow/conf`, in a wheel. `conf/experiments` is a
link to `experiments/`, which the patterns follow.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["pixelflow", "pixelflow.*"]), "pixelflow.conf"],
    package_dir={"pixelflow.conf": "conf"},
    package_data={
        "pixelflow": ["metrics/assets/*", "py.typed"],
        "pixelflow.conf": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
    },
)
