"""The packages of the wheel; everything else is in pyproject.toml.

The experiments go into the wheel as dcjax.configs: no package of the name configs is installed.
"""

import setuptools

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["dcjax", "dcjax.*"]),
        *(f"dcjax.{name}" for name in setuptools.find_packages(include=["configs", "configs.*"])),
    ],
    package_dir={"dcjax.configs": "configs"},
)
