"""Builds `hct_predict`, the C++ program that serves artifacts, against the wheels of this Python.

python -m hct_lightning.deploy.build_cpp [FOLDER]   prints the program's path; build/cpp by default
"""

import argparse
import subprocess
import sys
from importlib.resources import files
from pathlib import Path


def build(folder: Path) -> Path:
    """Configures and builds in `folder`; what is up to date there stays.

    Raises:
        ImportError: when CMake, a compiler or a library is missing, naming the packages.
        RuntimeError: when the build fails for another reason, with the compiler's words.
    """
    sources = files("hct_lightning.deploy") / "cpp"
    configure = ["cmake", "-S", sources, "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}"]
    for command in (configure, ["cmake", "--build", folder, "--parallel"]):
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except FileNotFoundError as error:
            raise ImportError(
                "hct_predict needs CMake and a C++20 compiler: apt-get install -y cmake g++ make"
            ) from error
        if done.returncode:
            kind = ImportError if command is configure else RuntimeError
            raise kind(f"hct_predict could not be built:\n{done.stdout[-4000:]}")
    return folder / "hct_predict"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds hct_predict with CMake.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("build/cpp"))
    try:
        print(build(parser.parse_args().folder.resolve()))
    except (ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")
