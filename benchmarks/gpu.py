"""Measures the kernels of the GPU by themselves, without TensorFlow.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json

It needs a GPU with its driver, and NVRTC, which `pip install
nvidia-cuda-nvrtc-cu12` brings, or kernels that were compiled elsewhere:

    python benchmarks/gpu.py --compile 90 --kernels build/kernels
    python benchmarks/gpu.py --kernels build/kernels

Results of Adam are first compared with NumPy's, bit by bit. Printed are medians
of the GPU's own clock with their quartiles, and what fraction of the bandwidth
of a copy in the same run they reach: of the bytes that an update has to move.
Where torch is installed, its fused and `foreach` Adam are measured as well.
"""

import argparse
import ctypes
import importlib
import itertools
import json
import pathlib
import statistics
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
# The modules that compile kernels for users, without the package: it would
# import TensorFlow.
sys.path.insert(0, str(ROOT / "keras_legacy_opt" / "fused" / "gpu"))
nvrtc = importlib.import_module("nvrtc")
units = importlib.import_module("units")
HEADERS = units.headers(ROOT / "tf_custom_ops")

THREADS, BLOCK, TILE = 256, 1 << 14, 256 * 16
DIGIT_BITS = 6
MOST_HYPERS = 16
SORTING = "CountDigits", "Scan", "SortDigit"
HEADS = "CountHeads", "Scan", "WriteHeads"

# Of each formula: its scalars, its slots, and of those how many are written.
FORMULAS = {
    "Sgd": ([0.01], 0),
    "Momentum": ([0.01, 0.9], 1),
    "Adam": ([0.001, 0.9, 0.999, 0.9, 0.999, 1e-7], 2),
    "AdamAmsgrad": ([0.001, 0.9, 0.999, 0.9, 0.999, 1e-7], 3),
    "RmsProp": ([0.001, 0.9, 0.0, 1e-7], 1),
    "Adagrad": ([0.01, 1e-7], 1),
    "Adadelta": ([0.001, 0.95, 1e-7], 2),
    "Lion": ([0.001, 0.9, 0.99, 0.1], 1),
    "Lamb": ([0.001, 0.9, 0.999, 0.1, 0.001, 1e-6, 0.01, 1.0], 2),
}
# What several launches move, in bytes for each element.
NORM_BYTES = {"Lamb": 4 * (4 + 2) + 4 * (4 + 1)}
SPARSE = "Adam", "LazyAdam"


class Chunk(ctypes.Structure):
    """See tf_custom_ops/gpu/launch.h, as of the other records."""

    _fields_ = [
        ("offset", ctypes.c_int64),
        ("tensor", ctypes.c_int32),
        ("count", ctypes.c_int32),
    ]


def _pointers(*names):
    return [(name, ctypes.c_uint64) for name in names]


class Launch(ctypes.Structure):
    _fields_ = [
        *_pointers("chunks", "state", "grads"),
        ("hypers", ctypes.c_uint64 * MOST_HYPERS),
        *_pointers("transform", "condition", "per_variable", "average_weight"),
        ("transform_of_each", ctypes.c_int32),
        ("per_variable_of_each", ctypes.c_int32),
        *_pointers("first", "squares", "scales"),
    ]


class Rows(ctypes.Structure):
    _fields_ = [
        *_pointers("indices"),
        ("count", ctypes.c_int32),
        ("has_long", ctypes.c_int32),
        ("table_rows", ctypes.c_int64),
        *_pointers("keys", "sorted"),
        ("shift", ctypes.c_int32),
        ("tiles", ctypes.c_int32),
        ("counted", ctypes.c_int32),
        *_pointers("counts", "heads", "head_count", "refusal", "condition"),
    ]


class SparseLaunch(ctypes.Structure):
    _fields_ = [
        ("all", Launch),
        ("rows", Rows),
        ("width", ctypes.c_int64),
        ("lines", ctypes.c_int64),
        ("lines_of_block", ctypes.c_int32),
        ("average", ctypes.c_int32),
    ]


class Driver:
    """The driver's interface, and one device."""

    def __init__(self, path):
        self._library = ctypes.CDLL(path)
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self("cuInit", 0)
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self("cuCtxSetCurrent", self._context)
        name = ctypes.create_string_buffer(256)
        self("cuDeviceGetName", name, 256, device)
        self.name = name.value.decode()
        capability = []
        for attribute in (75, 76):
            number = ctypes.c_int()
            self(
                "cuDeviceGetAttribute", ctypes.byref(number), attribute, device
            )
            capability.append(number.value)
        self.architecture = capability[0] * 10 + capability[1]

    def __call__(self, function, *arguments):
        error = getattr(self._library, function)(*arguments)
        if error:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(error, ctypes.byref(text))
            raise SystemExit(
                f"{function} fails: {(text.value or b'').decode()}"
            )

    def allocate(self, size):
        address = ctypes.c_uint64()
        self("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size or 1))
        return address.value

    def free(self, address):
        self("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, array):
        """The address of a copy of a NumPy array."""
        array = np.ascontiguousarray(array)
        address = self.allocate(array.nbytes)
        self(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )
        return address

    def to_host(self, address, like):
        """A NumPy array of what lies at an address."""
        array = np.empty_like(like)
        self(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )
        return array

    def fill(self, address, words, number=0):
        """Writes 32-bit words."""
        self(
            "cuMemsetD32_v2",
            ctypes.c_uint64(address),
            ctypes.c_uint(number),
            ctypes.c_size_t(words),
        )

    def module(self, code):
        """{symbol: function} of a compiled unit, looked up on demand."""
        module = ctypes.c_void_p()
        self("cuModuleLoadData", ctypes.byref(module), code)

        def function(symbol):
            found = ctypes.c_void_p()
            self(
                "cuModuleGetFunction",
                ctypes.byref(found),
                module,
                symbol.encode(),
            )
            return found

        return function

    def launch(self, function, blocks, record):
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(record))
        sizes = [ctypes.c_uint(n) for n in (blocks, 1, 1, THREADS, 1, 1, 0)]
        self("cuLaunchKernel", function, *sizes, None, parameters, None)

    def times(self, step, repeats):
        """Seconds of the GPU for each of some steps."""
        events = [ctypes.c_void_p() for _ in range(2)]
        for event in events:
            self("cuEventCreate", ctypes.byref(event), 0)
        result = []
        for number in range(repeats + 2):
            self("cuEventRecord", events[0], None)
            step()
            self("cuEventRecord", events[1], None)
            self("cuEventSynchronize", events[1])
            time = ctypes.c_float()
            self("cuEventElapsedTime", ctypes.byref(time), *events)
            if number >= 2:
                result.append(time.value / 1e3)
        return result


def chosen_kernels():
    """Those that are measured."""
    return [
        kernel
        for kernel in units.kernels(HEADERS)
        if (names := kernel.symbol.split("_"))[0] == "Rows"
        or (
            names[-1] == "float"
            and (names[1] in FORMULAS or names[1] in SPARSE)
            and (not names[0].startswith("Sparse") or names[1] in SPARSE)
        )
    ]


def source():
    """One unit of them."""
    return units.text(HEADERS, chosen_kernels())


def compiled(architecture):
    """The code of the kernels, by an NVRTC that knows the architecture."""
    try:
        for compiler in nvrtc.find():
            if architecture in compiler.known:
                return compiler.compile(source(), f"sm_{architecture}")[1]
    except nvrtc.Failure as failure:
        raise SystemExit(str(failure)) from None
    raise SystemExit(f"No NVRTC here knows sm_{architecture}.")


class Group:
    """Variables of float32 with their slots and gradients, for one formula."""

    def __init__(self, driver, function, formula, sizes, host=None):
        self.driver, self.formula, self.sizes = driver, formula, sizes
        self.hypers, slots = FORMULAS[formula.removeprefix("Lazy")]
        self.has_norms = formula in NORM_BYTES
        jobs = ("Direct", "Scale", "Move") if self.has_norms else ("Dense",)
        self.functions = [function(f"{j}_{formula}_float") for j in jobs]
        chunks = [
            Chunk(offset, number, min(BLOCK, size - offset))
            for number, size in enumerate(sizes)
            for offset in range(0, size, BLOCK)
        ]
        first = np.cumsum([0, *(-(-size // BLOCK) for size in sizes)])
        self.blocks = len(chunks)
        self.allocated = []
        self.tensors = [
            [self._tensor(size, host) for size in sizes]
            for host in host or [None] * (slots + 2)
        ]
        *state, grads = self.tensors
        by_variable = list(itertools.chain(*zip(*state, strict=True)))
        self.launch = Launch(
            chunks=self._copy((Chunk * len(chunks))(*chunks)),
            state=self._copy(np.array(by_variable, np.uint64)),
            grads=self._copy(np.array(grads, np.uint64)),
            hypers=(ctypes.c_uint64 * MOST_HYPERS)(
                *(self._copy(np.float32(hyper)) for hyper in self.hypers)
            ),
            first=self._copy(first.astype(np.int64)),
            squares=self._allocate(16 * len(chunks)),
            scales=self._allocate(4 * len(sizes)),
        )

    def _allocate(self, size):
        self.allocated.append(self.driver.allocate(size))
        return self.allocated[-1]

    def _copy(self, values):
        if isinstance(values, ctypes.Array):
            values = np.frombuffer(values, np.uint8)
        self.allocated.append(self.driver.to_device(values))
        return self.allocated[-1]

    def _tensor(self, size, host):
        if host is not None:
            return self._copy(host)
        address = self._allocate(4 * size)
        self.driver.fill(address, size, 0x3C23D70A)  # 0.01
        return address

    def step(self):
        blocks = self.blocks, len(self.sizes), self.blocks
        for function, count in zip(self.functions, blocks, strict=False):
            self.driver.launch(function, count, self.launch)

    def bytes(self):
        """What a step has to read and write."""
        tensors = len(self.tensors)
        each = NORM_BYTES.get(self.formula, 4 * (2 * tensors - 1))
        return each * sum(self.sizes)

    def free(self):
        for address in self.allocated:
            self.driver.free(address)


class Table(Group):
    """A table whose gradients are rows."""

    def __init__(
        self, driver, function, formula, rows, width, indices, host=None
    ):
        super().__init__(driver, function, formula, [rows * width], host)
        self.width, self.indices = width, indices
        self.jobs = {job: function(f"Rows_{job}") for job in units.ROWS}
        self.sparse = function(f"Sparse_{formula}_float")
        count = len(indices)
        self.tiles = -(-count // TILE)
        self.rows = Rows(
            indices=self._copy(indices),
            count=count,
            has_long=indices.dtype == np.int64,
            table_rows=rows,
            keys=self._allocate(8 * count),
            sorted=self._allocate(8 * count),
            tiles=self.tiles,
            counts=self._allocate(4 * ((1 << DIGIT_BITS) * self.tiles + 1)),
            heads=self._allocate(4 * (count + 1)),
            head_count=self._allocate(4),
            refusal=self._allocate(4),
        )
        is_lazy = formula.startswith("Lazy")
        lines = min(count, rows) if is_lazy else rows
        of_block = max(1, (THREADS * 4 if is_lazy else BLOCK) // width)
        self.sparse_blocks = -(-lines // of_block)
        self.sparse_launch = SparseLaunch(
            all=self.launch, width=width, lines=lines, lines_of_block=of_block
        )

    def _job(self, name, is_one=False):
        blocks = 1 if is_one else self.tiles
        self.driver.launch(self.jobs[name], blocks, self.rows)

    def step(self):
        keys = self.rows.keys, self.rows.sorted
        self.driver.fill(self.rows.refusal, 1)
        self._job("MakeKeys")
        for shift in range(
            0, int(self.rows.table_rows - 1).bit_length(), DIGIT_BITS
        ):
            self.rows.shift, self.rows.counted = shift, 1 << DIGIT_BITS
            for job in SORTING:
                self._job(job, job == "Scan")
            self.rows.keys, self.rows.sorted = self.rows.sorted, self.rows.keys
        self.rows.counted = 1
        for job in HEADS:
            self._job(job, job == "Scan")
        self.sparse_launch.rows = self.rows
        self.driver.launch(self.sparse, self.sparse_blocks, self.sparse_launch)
        self.rows.keys, self.rows.sorted = keys

    def bytes(self):
        tensors = len(self.tensors) - 1
        touched = self.width * len(np.unique(self.indices))
        changed = touched if "Lazy" in self.formula else self.sizes[0]
        return 8 * tensors * changed + 4 * self.width * len(self.indices)


def adam(state, grad, hypers, weighted):
    """A step of Adam in NumPy, rounded as the kernels round it."""
    var, m, v = state
    lr, power_1, power_2, beta_1, beta_2, epsilon = map(np.float32, hypers)
    one = np.float32(1)
    alpha = lr * np.sqrt(one - power_2) / (one - power_1)
    if weighted is None:
        m = m + (grad - m) * (one - beta_1)
        v = v + (grad * grad - v) * (one - beta_2)
    else:
        if weighted == "Adam":
            alpha = lr * (np.sqrt(one - power_2) / (one - power_1))
        m = m * beta_1 + grad * (one - beta_1)
        v = v * beta_2 + grad * grad * (one - beta_2)
    return var - (m * alpha) / (np.sqrt(v) + epsilon), m, v


def check_dense(driver, function):
    """Exits unless Adam has NumPy's bits."""
    rng = np.random.default_rng(0)
    for size in (1, 1000, 3 * BLOCK + 5):
        host = list(rng.random((4, size), np.float32))
        group = Group(driver, function, "Adam", [size], host)
        group.step()
        got = [driver.to_host(each[0], host[0]) for each in group.tensors[:3]]
        expected = adam(host[:3], host[3], group.hypers, None)
        _compare("dense Adam", got, expected)
        group.free()


def check_sparse(driver, function):
    """Exits unless sparse Adam and LazyAdam have NumPy's bits."""
    rng = np.random.default_rng(0)
    rows, width = 700, 12
    indices = rng.integers(0, rows, 5000)
    for formula in SPARSE:
        host = list(rng.random((3, rows * width), np.float32))
        grads = rng.random((len(indices), width), np.float32)
        table = Table(
            driver, function, formula, rows, width, indices, [*host, grads]
        )
        table.step()
        got = [
            driver.to_host(each[0], host[0]).reshape(rows, width)
            for each in table.tensors[:3]
        ]
        sums = np.zeros((rows, width), np.float32)
        np.add.at(sums, indices, grads)
        state = [each.reshape(rows, width) for each in host]
        expected = list(adam(state, sums, table.hypers, formula))
        if formula == "LazyAdam":
            touched = np.isin(np.arange(rows), indices)[:, None]
            expected = [
                np.where(touched, new, old)
                for new, old in zip(expected, state, strict=True)
            ]
        _compare(f"sparse {formula}", got, expected)
        table.free()


def _compare(what, got, expected):
    for name, one, other in zip(("var", "m", "v"), got, expected, strict=True):
        if one.tobytes() != other.tobytes():
            raise SystemExit(f"{what}: {name} differs from NumPy's.")
    print(f"{what}: the bits of NumPy")


def copy_times(driver, size, repeats):
    """Of a copy of `size` bytes on the device."""
    addresses = [driver.allocate(size) for _ in range(2)]
    places = [ctypes.c_uint64(address) for address in addresses]
    times = driver.times(
        lambda: driver(
            "cuMemcpyDtoDAsync_v2", *places, ctypes.c_size_t(size), None
        ),
        repeats,
    )
    for address in addresses:
        driver.free(address)
    return times


def measured(driver, function, big, quick):
    """Yields (name, bytes, times) of all that is measured."""
    repeats, small = (2, [40] * 9) if quick else (20, [4096] * 400)
    yield "copy", 8 * big, copy_times(driver, 4 * big, repeats)
    for formula, sizes in [*((f, [big]) for f in FORMULAS), ("Adam", small)]:
        group = Group(driver, function, formula, sizes)
        name = f"{formula}, {len(sizes)} x {sizes[0]}"
        yield name, group.bytes(), driver.times(group.step, repeats)
        group.free()
    rows, width, count = (300, 8, 50) if quick else (1 << 22, 64, 1 << 16)
    indices = np.random.default_rng(0).integers(0, rows, count)
    for formula in SPARSE:
        table = Table(driver, function, formula, rows, width, indices)
        name = f"sparse {formula}, {count} of {rows} x {width}"
        yield name, table.bytes(), driver.times(table.step, repeats)
        table.free()


def torch_measured(big, quick):
    """The same of torch's Adam, where it is installed."""
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    small = [40] * 9 if quick else [4096] * 400
    for kind, sizes in itertools.product(("fused", "foreach"), ([big], small)):
        variables = [torch.zeros(size, device="cuda") for size in sizes]
        for variable in variables:
            variable.grad = torch.full_like(variable, 0.01)
        optimizer = torch.optim.Adam(variables, **{kind: True})
        times = []
        for number in range(4 if quick else 22):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            optimizer.step()
            events[1].record()
            events[1].synchronize()
            if number >= 2:
                times.append(events[0].elapsed_time(events[1]) / 1e3)
        name = f"torch {kind} Adam, {len(sizes)} x {sizes[0]}"
        yield name, 28 * sum(sizes), times


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, help="where to save")
    parser.add_argument(
        "--kernels", type=pathlib.Path, help="the folder of compiled kernels"
    )
    parser.add_argument(
        "--compile",
        type=int,
        metavar="ARCHITECTURE",
        help="only compile them, for 90 or another one",
    )
    parser.add_argument(
        "--elements",
        type=int,
        default=1 << 30,
        help="of the large variable; AMSGrad needs 20 bytes for each",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--libcuda", default="libcuda.so.1", help="the driver")
    return parser.parse_args()


def main():
    args = arguments()
    if args.compile:
        args.kernels.mkdir(parents=True, exist_ok=True)
        path = args.kernels / f"sm_{args.compile}.cubin"
        path.write_bytes(compiled(args.compile))
        return
    try:
        driver = Driver(args.libcuda)
    except OSError as error:
        raise SystemExit(f"There is no driver of a GPU: {error}") from None
    print(f"{driver.name}, sm_{driver.architecture}")
    if args.kernels:
        path = args.kernels / f"sm_{driver.architecture}.cubin"
        function = driver.module(path.read_bytes())
    else:
        function = driver.module(compiled(driver.architecture))
    check_dense(driver, function)
    check_sparse(driver, function)
    results, roof = {}, None
    size = 1 << 16 if args.quick else args.elements, args.quick
    for name, moved, times in itertools.chain(
        measured(driver, function, *size), torch_measured(*size)
    ):
        low, middle, high = statistics.quantiles(times, n=4)
        roof = roof or moved / middle
        results[name] = {"bytes": moved, "seconds": times}
        print(
            f"{name:<40} {middle * 1e6:10.1f} us ({low * 1e6:.1f} to"
            f" {high * 1e6:.1f}), {moved / middle / 1e9:6.0f} GB/s,"
            f" {moved / middle / roof:4.0%} of the copy",
            flush=True,
        )
    if args.json:
        record = {"device": driver.name, "results": results}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
