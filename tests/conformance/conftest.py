"""Makes the table and what drives it importable from the tests here, whatever directory pytest was started in."""

import sys
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)
