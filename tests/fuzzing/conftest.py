"""The modules that the fuzzers share with other tests."""

import pathlib
import sys

for folder in ("conformance", "fused"):
    sys.path.append(str(pathlib.Path(__file__).parents[1] / folder))
