"""Python programs in processes of their own."""

import os
import subprocess
import sys


def run_python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not result.returncode, result.stderr
    return result
