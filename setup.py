"""Compile the BPF programs and the launcher before the Python files are collected."""

import os
import subprocess

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.dist import Distribution

NATIVE = ("redirect/bpf", "redirect/launcher")


def build_native() -> None:
    """Run the two Makefiles; stop the installation with their message when one fails."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in NATIVE:
        try:
            subprocess.run(["make", "--no-print-directory", "-C", os.path.join(here, folder)], check=True)
        except FileNotFoundError:
            raise SystemExit("racecar: make is missing; on Debian: apt-get install make clang gcc libbpf-dev") from None
        except subprocess.CalledProcessError as failed:
            raise SystemExit(
                f"racecar: building {folder} failed ({failed.returncode}); see its message above"
            ) from None


class BuildPy(build_py):
    def run(self) -> None:
        build_native()
        super().run()


class EditableWheel(editable_wheel):
    def run(self) -> None:
        build_native()
        super().run()


class PlatformDistribution(Distribution):
    """The wheel holds compiled objects: it belongs to one platform."""

    def has_ext_modules(self) -> bool:
        return True


setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel}, distclass=PlatformDistribution)
