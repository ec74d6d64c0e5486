"""What the tests here share lies in modules beside them: imported as `python -m tests.fuzz` does."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parent.parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
