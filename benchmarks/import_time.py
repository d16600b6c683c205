"""Measure what `import keras_legacy_opt` costs after `import tensorflow`.

Prints the median and the range over new processes, in milliseconds: of elapsed
time and, less troubled by other load on the machine, of processor time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

CODE = """
import json, time
import tensorflow
wall, cpu = time.perf_counter(), time.process_time()
import keras_legacy_opt
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps({"elapsed": wall * 1e3, "processor": cpu * 1e3}))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=9)
    args = parser.parse_args()
    # With compiled modules, which the first process writes.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    samples = []
    for _ in range(1 + args.processes):
        run = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
        )
        samples.append(json.loads(run.stdout))
    del samples[0]
    for kind in samples[0]:
        times = [sample[kind] for sample in samples]
        print(
            f"{kind} time: {statistics.median(times):.0f} ms "
            f"({min(times):.0f} to {max(times):.0f})"
        )


if __name__ == "__main__":
    main()
