"""Every rule over the whole tree; and each rule shown a breach, which it must see, and its mended form."""

import pytest

from tests.house import rules
from tests.house.rules import Rule
from tests.support.source import Source, python_files

RULES = [
    Rule(
        name="files are short",
        mend="Split it by what its parts know.",
        find=rules.long_files,
        bad="x = 1\n" * (rules.MAX_FILE_LINES + 1),
        good="x = 1\n" * rules.MAX_FILE_LINES,
    ),
    Rule(
        name="functions are short",
        mend="Give its steps names.",
        find=rules.long_functions,
        bad="def f():\n" + "    x = 1\n" * rules.MAX_FUNCTION_LINES,
        good="def f():\n" + "    x = 1\n" * (rules.MAX_FUNCTION_LINES - 1),
    ),
    Rule(
        name="tasks are watched",
        mend="Start it through lib/tasks.py, which keeps it, logs its failure and ends it.",
        find=rules.stray_tasks,
        bad="import asyncio\nasync def f():\n    asyncio.get_running_loop().create_task(g())\n",
        good="from zuebee.lib.tasks import spawn\nasync def f():\n    spawn(g())\n",
    ),
    Rule(
        name="one wall clock",
        mend="Ask the clock of lib/clock.py, so that tests can turn it.",
        find=rules.wall_clock,
        bad="from datetime import UTC, datetime as dt\nstamp = dt.now(UTC)\n",
        good="from datetime import UTC, datetime as dt\nstamp = dt.fromtimestamp(0, UTC)\n",
    ),
    Rule(
        name="one reader of the environment",
        mend="Make it a setting in config/, or ask config/settings_base.py for it.",
        find=rules.environment,
        bad="from os import environ as e\nhome = e['HOME']\n",
        good="import os\nhere = os.getcwd()\n",
    ),
    Rule(
        name="streams are closed",
        mend="Open it with `async with aclosing(...) as name` and consume the name.",
        find=rules.bare_streams,
        bad="async def f(port, job):\n    s = port.run(job)\n    async for x in s:\n        return x\n",
        good=(
            "async def f(port, job):\n    async with aclosing(port.run(job)) as stream:\n"
            "        async for x in stream:\n            return x\n"
        ),
    ),
    Rule(
        name="imports stand at the top",
        mend="Move it up; if that makes a cycle, the parts are cut in the wrong place.",
        find=rules.late_imports,
        bad="def f():\n    import json\n    return json\n",
        good="import json\ndef f():\n    return json\n",
    ),
    Rule(
        name="heavy dependencies live in one file",
        mend="Use what that file offers, or change HOMES in tests/house/rules.py with a reason.",
        find=rules.strayed_dependencies,
        bad="from prometheus_client import Counter\n",
        good="from zuebee.telemetry.metrics import requests_total\n",
    ),
    Rule(
        name="pure files touch nothing",
        mend="Take the time, the random number or the bytes as an argument.",
        find=rules.impure_imports,
        bad="from zuebee.lib import clock\n",
        good="import dataclasses\n",
        at="src/zuebee/contracts/messages.py",
    ),
    Rule(
        name="tests look from outside",
        mend="Assert what can be observed, or pass what is to be different as an argument.",
        find=rules.intrusions,
        bad="def test(made, monkeypatch):\n    assert made._queue == []\n",
        good="def test(made, monkeypatch):\n    assert made.depth == 0\n",
        at="tests/unit/room/test_file.py",
    ),
    Rule(
        name="nothing is left unfinished",
        mend="Finish it, or leave it out.",
        find=rules.unfinished,
        bad="raise " + "NotImplemented" + "Error\n",
        good="return NotImplemented\n",
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_tree_keeps_the_rule(rule: Rule) -> None:
    breaches = [breach for source in python_files() for breach in rule.breaches(source)]
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_sees_a_breach_and_accepts_its_mend(rule: Rule) -> None:
    assert rule.breaches(Source(rule.at, rule.bad))
    assert not rule.breaches(Source(rule.at, rule.good))


@pytest.mark.parametrize(
    "consumer",
    [
        "async for x in port.run(job): pass",
        "return [x async for x in port.run(job)]",
        "return await anext(port.run(job))",
        "stream = port.run(job)\n    return await stream.__anext__()",
        "with aclosing(port.run(job)) as stream:\n        async for x in stream: pass",
    ],
)
def test_no_way_to_consume_an_unowned_stream_escapes(consumer: str) -> None:
    source = Source("src/zuebee/room/file.py", f"async def f(port, job):\n    {consumer}\n")
    assert list(rules.bare_streams(source))


@pytest.mark.parametrize(
    "function",
    [
        "async def f(chunks):\n    async for x in chunks: pass",
        "async def f(self):\n    async for x in self.events: pass",
        "async def f(http):\n    async with http.send() as reply:\n        async for x in reply.body: pass",
    ],
)
def test_a_stream_that_was_handed_over_may_be_consumed(function: str) -> None:
    assert not list(rules.bare_streams(Source("src/zuebee/room/file.py", function)))


@pytest.mark.parametrize(
    "line",
    [
        "assert made.parts._queue == []",
        "made._running = None",
        "assert getattr(made, '_queue') == []",
        "monkeypatch.setattr(made, '_queue', None)",
        "monkeypatch.setattr('zuebee.room.file._decide', print)",
        "monkeypatch.setattr(file, 'MAX_THINGS', 3)",
        "monkeypatch.setattr('zuebee.room.file.MAX_THINGS', 3)",
        "mock.patch.object(file, 'MAX_THINGS', 3)",
        "mock.patch.multiple(file, MAX_THINGS=3)",
        "from zuebee.room.file import _decide",
    ],
)
def test_no_way_to_look_inside_escapes(line: str) -> None:
    assert len(list(rules.intrusions(Source("tests/unit/room/test_file.py", line)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "class Fake:\n    def __init__(self):\n        self._queue = []\nfake = Fake()\nassert fake._queue == []",
        "class Fake(Real):\n    def f(self):\n        return self._queue + super()._f()",
        "assert said._replace(a=1)._asdict() == {}\nos._exit(1)",
        "monkeypatch.setattr(clock, 'wall_s', print)",
    ],
)
def test_what_is_a_tests_own_is_not_looked_into(text: str) -> None:
    assert not list(rules.intrusions(Source("tests/unit/room/test_file.py", text)))


def test_the_exceptions_only_become_fewer() -> None:
    found = {source.path: len(rules.intruding(source)) for source in python_files()}
    assert {path: count for path, count in found.items() if count} == rules.INTRUDING, "Lower INTRUDING."
