"""What all tests share: one device kind, strict dtypes, repeatable examples, raw data.

The environment is set before JAX and Matplotlib are first imported.
"""

import gc
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX_PLATFORMS=cuda tests on a GPU
os.environ["JAX_ENABLE_X64"] = "0"  # tests ask for 64 bits: jax.enable_x64(True)
os.environ["MPLBACKEND"] = "Agg"
# Tests compile far more than they compute: with these two thirds of it are saved.
_FLAGS = {
    "--xla_backend_optimization_level": "0",
    "--xla_cpu_use_fusion_emitters": "false",
    "--xla_cpu_parallel_codegen_split_count": "1",
}
_GIVEN = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = " ".join(
    [_GIVEN, *(f"{n}={v}" for n, v in _FLAGS.items() if n not in _GIVEN)]
).strip()
# What is compiled once serves both test processes, the programs that they start, and
# the next run. Most programs are short, hence no thresholds.
_CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "programs"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from r2et_jax import execution  # noqa: E402

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent

# Compiling makes first examples slow, hence no deadline. "repeatable" gives every run
# the same examples; HYPOTHESIS_PROFILE=explore looks for new ones.
_COMPILED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile(
    "repeatable", derandomize=True, database=None, max_examples=25, **_COMPILED
)
settings.register_profile("explore", max_examples=500, **_COMPILED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_modifyitems(items):
    """What takes longest for a file comes first: no process waits for another's last.

    Of the experiments, the tests whose runs the others look at. Stable otherwise, and
    files stay whole.
    """

    def place(item):
        folder = item.path.parent
        experiments = folder == TESTS / "experiments"
        made = experiments and item.path.name == "test_resume.py"
        notebooks = item.path.name == "test_notebooks.py"
        return not notebooks, not experiments, not made

    items.sort(key=place)


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look at it each time.

    Nor so often while JAX traces, which makes many objects and drops few.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """A process may have 65,530 memory maps, and each compiled program takes some."""
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and maps.read_bytes().count(b"\n") > 20_000:
        execution.free_programs()


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """In the library's tests a silent mix of dtypes is an error.

    Adam, Flax's average pooling and jraph's convolution mix dtypes themselves: tests
    that call them are marked standard_promotion. Fixtures of a wider scope are set up
    before this one and keep JAX's default.
    """
    maths = request.path.is_relative_to(TESTS / "r2et_jax")
    if maths and not request.node.get_closest_marker("standard_promotion"):
        with jax.numpy_dtype_promotion("strict"):
            yield
    else:
        yield


@pytest.fixture
def compilations():
    """`compilations() -> int`: programs that JAX has compiled since the test began."""
    count = 0

    def listen(event: str, duration: float, **_) -> None:
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: count
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="session")
def raw_dir() -> Path:
    """The folder of raw public files: $R2ET_RAW_DIR, else beside the checkout."""
    default = CHECKOUT.parent / "shared" / "data" / "raw"
    path = Path(os.environ.get("R2ET_RAW_DIR", default))
    if not path.is_dir():
        pytest.skip("no raw data: name its folder in R2ET_RAW_DIR")
    return path
