"""Fuzz one target in this process: `python -m tests.fuzz.guided TARGET FOLDER SECONDS`, as `tests.fuzz` calls it.

FOLDER holds the corpus and the words; an input that fails is left there as `input-*`, and the process dies of it.
"""

import sys
from pathlib import Path

INPUT_TIMEOUT_S = 20
MEMORY_MB = 2048
MAX_INPUT_BYTES = 2048


def main(name: str, folder: Path, seconds: str) -> None:
    import atheris  # type: ignore[import-untyped, unused-ignore]

    with atheris.instrument_imports(include=["racecar"]):  # their branches are what is to be covered
        from tests.fuzz import targets

    def once(data: bytes) -> None:
        targets.check(name, data)

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-dict={folder / 'words'}",
        f"-artifact_prefix={folder / 'input-'}",
        "-print_final_stats=1",
        "-len_control=20",
    ]
    atheris.Setup([sys.argv[0], *options, str(folder / "corpus")], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
