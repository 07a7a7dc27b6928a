"""The rules that one Python file can break by itself. Each says what it forbids and how to mend it."""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from tests.house.streams import unowned_streams
from tests.support.source import Source, imported_modules, nodes, references

MAX_FILE_LINES = 700
MAX_FUNCTION_LINES = 60

Find = Callable[[Source], Iterable[tuple[int, str]]]


@dataclass(frozen=True)
class Rule:
    """`find` yields (line, what) of each breach; `bad` breaks the rule and `good` is its mended form."""

    name: str
    mend: str
    find: Find
    bad: str
    good: str
    at: str = "src/zuebee/room/file.py"  # where the two snippets are pretended to stand

    def breaches(self, source: Source) -> list[str]:
        return [f"{source.path}:{line}: {what}. {self.mend}" for line, what in self.find(source)]


# Where each heavy dependency lives: as few files as can be, so that it can be replaced there.
HOMES = {
    "alembic": ("schema/migrate.py", "schema/migrations/*.py"),
    "cryptography": ("idempotency/store.py", "auth/tokens.py"),
    "backports": ("models/unpacking.py",),
    # google.protobuf and google.rpc: what gRPC's messages are made of.
    "google": ("auth/sources/billing.py", "dialects/llm_v1.py", "edge/grpc.py", "lib/grpc/server.py", "protos/*.py"),
    "grpc": ("lib/grpc/channel.py", "lib/grpc/server.py"),
    "grpc_health": ("lib/grpc/server.py",),
    "grpc_reflection": ("lib/grpc/server.py",),
    "httptools": ("http/client.py", "http/grammar.py", "http/reader.py", "sim/server.py"),
    "jwt": ("auth/tokens.py",),
    "lupa": ("auth/sources/sandbox.py", "auth/sources/script.py"),
    "prometheus_client": ("telemetry/metrics.py",),
    "psycopg": ("ledger/postgres/store.py", "ledger/postgres/connection.py", "lib/sql/postgres.py", "schema/*.py"),
    "pymysql": ("lib/sql/database.py",),
    "re2": ("admission/firewall.py", "config/validate_policies.py"),
    "redis": ("lib/redis.py",),
    "sqlalchemy": (
        "accounts/*.py",
        "auth/sources/database.py",
        "idempotency/*.py",
        "ledger/audit.py",
        "ledger/credit.py",
        "lib/sql/database.py",
        "schema/*.py",
        "schema/migrations/*.py",
        "usage/*.py",
    ),
    "sqlite3": ("ledger/sqlite/store.py", "schema/*.py"),
    "typer": ("cli/*.py",),
    "uvloop": ("app/loop.py",),
    "yaml": ("config/yaml.py",),
}
EVERYWHERE = frozenset({"msgspec"})  # the message type of every room

# Files that decide and touch nothing: the same arguments get the same answer, whatever the time. These must;
# any other file whose docstring says PURE is held to it as well.
PURE = (
    "contracts/*.py",
    "dialects/*.py",
    "admission/firewall.py",
    "auth/records.py",
    "dispatch/balancer.py",
    "dispatch/priority_queue.py",
    "limits/buckets.py",
    "ledger/entries.py",
    "ledger/ledger.py",
    "billing/pricing.py",
)
IMPURE = (
    "asyncio",
    "concurrent",
    "ctypes",
    "http.client",
    "http.server",
    "httptools",
    "io",
    "multiprocessing",
    "os",
    "pathlib",
    "prometheus_client",
    "random",
    "secrets",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "uvloop",
    "zuebee.lib.clock",
    "zuebee.lib.tasks",
    "zuebee.http.pool",
    "zuebee.http.server",
)

_WALL_CLOCK = frozenset(
    [
        "time.time",
        "time.time_ns",
        "time.ctime",
        "time.localtime",
        "datetime.datetime.now",
        "datetime.datetime.utcnow",
        "datetime.datetime.today",
        "datetime.date.today",
    ]
)
_TASK_OWNERS = ("lib/tasks.py", "http/order.py")  # the second has one for each connection
_TASK_STARTERS = frozenset(["create_task", "ensure_future"])
# What is heavy and not needed by every start may be imported where it turns out to be needed.
_LATE = (
    "__main__.py", "app/auth.py", "app/connect.py", "app/grpc.py", "app/lifecycle.py",
    "app/parts/billing.py", "cli/*.py", "dialects/registry.py", "ledger/credit.py", "lib/sql/database.py",
    "models/translated.py", "schema/prepare.py", "schema/version.py",
)  # fmt: skip
_OF_NAMED_TUPLES = frozenset(["_asdict", "_fields", "_make", "_replace"])
INTRUDING = {
    "tests/house/test_pages.py": 2,  # which headers pass, for the pages that list them
    "tests/scenarios/test_openai_package.py": 1,  # the package documents this name
    "tests/scenarios/test_postgres_events.py": 1,  # the store has all the arguments that it may have
    "tests/scenarios/test_postgres_faults.py": 2,  # a control: batches without numbers
    "tests/scenarios/test_postgres_ledger.py": 2,  # controls: statements without a lock or a term
    "tests/scenarios/test_postgres_pooler.py": 6,  # controls: a connection that knows nothing of poolers
    "tests/simulation/test_tries.py": 1,  # a control: the rule that held before
    "tests/support/ledger_postgres.py": 2,  # for speed: commits that need not be on disk, which the store insists on
    "tests/unit/admission/test_firewall.py": 1,  # what is remembered changes nothing that can be seen
    "tests/unit/http/test_memory.py": 2,  # a class of the standard library: another C library
    "tests/unit/ledger/test_operations.py": 1,  # one text for each kind, with many cases
    "tests/unit/lib/test_redis.py": 4,  # a control: connections that are kept whatever became of their command
}
"""How often a test looks inside all the same, and why: these numbers may only become smaller."""

_ENVIRONMENT = frozenset(["os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"])
_UNFINISHED = re.compile(
    r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"]) + r")\b"
)


def long_files(source: Source) -> Iterator[tuple[int, str]]:
    lines = source.text.count("\n")
    if lines > MAX_FILE_LINES:
        yield lines, f"{lines} lines, more than {MAX_FILE_LINES}"


def long_functions(source: Source) -> Iterator[tuple[int, str]]:
    for node in nodes(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.lineno, f"{node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def stray_tasks(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside and source.inside not in _TASK_OWNERS:
        for node in nodes(source.tree):
            if isinstance(node, ast.Attribute) and node.attr in _TASK_STARTERS:
                yield node.lineno, f"{node.attr} starts a task that nobody watches"
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{a.name} is imported") for a in node.names if a.name in _TASK_STARTERS)


def wall_clock(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside and source.inside != "lib/clock.py":
        yield from (
            (line, f"{name} reads the wall clock") for line, name in references(source.tree) if name in _WALL_CLOCK
        )


def environment(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside and source.inside != "config/settings_base.py":
        yield from ((line, f"{name} is read") for line, name in references(source.tree) if name in _ENVIRONMENT)


def bare_streams(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside:
        yield from ((line, f"`{text}` is consumed but not owned") for line, text in unowned_streams(source.tree))


def late_imports(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside and not _matches(source.inside, _LATE):
        for function in nodes(source.tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from ((line, f"{function.name} imports {module}") for line, module in imported_modules(function))


def strayed_dependencies(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside:
        for line, module in imported_modules(source.tree):
            package = module.partition(".")[0]
            homes = HOMES.get(package)
            if homes and not _matches(source.inside, homes):
                yield line, f"{package} is imported outside {' and '.join(homes)}"


def impure_imports(source: Source) -> Iterator[tuple[int, str]]:
    if _matches(source.inside, PURE) or (source.inside and _says_pure(source)):
        for line, module in imported_modules(source.tree):
            if any(f"{module}.".startswith(f"{impure}.") for impure in IMPURE):
                yield line, f"a pure file imports {module}"


def _says_pure(source: Source) -> bool:
    return re.search(r"\bPURE\b", ast.get_docstring(source.tree) or "") is not None


def intrusions(source: Source) -> Iterator[tuple[int, str]]:
    found = intruding(source)
    if len(found) > INTRUDING.get(source.path, 0):
        yield from found


def intruding(source: Source) -> list[tuple[int, str]]:
    """Where a test reads or sets what is private to something else, or changes a constant of a module."""
    if not source.path.startswith("tests/"):
        return []
    own = _own_names(source.tree)
    found = []
    for node in nodes(source.tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
            if not _is_own(node.value) and node.attr not in _OF_NAMED_TUPLES:
                found.append((node.lineno, f"`{ast.unparse(node)}` is private"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zuebee"):
            found += [(node.lineno, f"`{each.name}` is private") for each in node.names if _is_private(each.name)]
        elif isinstance(node, ast.Call):
            found += [(node.lineno, f"`{name}` is changed or read by its name") for name in _named_in(node)]
    return found


def _named_in(call: ast.Call) -> Iterator[str]:
    """The private names and the constants that a call of `setattr` or the like names."""
    verb = ast.unparse(call.func).rpartition(".")[2]
    if verb in ("getattr", "hasattr", "setattr", "delattr", "patch", "object"):
        for each in call.args[:2]:
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                name = each.value.rpartition(".")[2]
                if _is_private(name) or (name.isupper() and verb not in ("getattr", "hasattr")):
                    yield name
    elif verb == "multiple":
        yield from (each.arg for each in call.keywords if each.arg and (_is_private(each.arg) or each.arg.isupper()))


def _own_names(tree: ast.AST) -> set[str]:
    """What the classes of a test define: their private parts are the test's own."""
    own: set[str] = set()
    for made in nodes(tree):
        if isinstance(made, ast.ClassDef):
            for node in ast.walk(made):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    own.add(node.name)
                elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
                    own.add(node.attr)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    own.add(node.target.id)
    return own


def _is_own(value: ast.expr) -> bool:
    return ast.unparse(value) in ("self", "cls", "os", "sys", "super()")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def unfinished(source: Source) -> Iterator[tuple[int, str]]:
    if source.inside:
        for number, line in enumerate(source.text.splitlines(), 1):
            if mark := _UNFINISHED.search(line):
                yield number, f"{mark[0]} marks unfinished work"


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, pattern) for pattern in patterns)
