import hashlib
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zuebee.auth.sources.sandbox import Question, Sandbox, ScriptLimits, ScriptMistake, ScriptResult, canonical

LIMITS = ScriptLimits(seconds=0.2)
REQUEST = {"method": "POST", "path": "/v1/x", "ip": "10.0.0.1", "headers": {"X-Team": "red"}}


def ask(data: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None) -> Question:
    return Question("sk-1", {"status": "active"} if data is None else data, REQUEST, metadata or {}, 1_700_000_000.25)


def run(source: str, data: dict[str, Any] | None = None, **limits: Any) -> ScriptResult:
    return Sandbox(source, ScriptLimits(**limits) if limits else LIMITS).run(ask(data))


# Each of these returns true exactly when it got somewhere.
ESCAPES = [
    "return os ~= nil",
    "return io ~= nil",
    "return package ~= nil",
    "return require ~= nil",
    "return debug ~= nil",
    "return load ~= nil",
    "return loadstring ~= nil",
    "return loadfile ~= nil",
    "return dofile ~= nil",
    "return coroutine ~= nil",
    "return collectgarbage ~= nil",
    "return python ~= nil",
    "return lupa ~= nil",
    "return string.dump ~= nil",
    "return string.pack ~= nil",
    "return warn ~= nil",
    "return getfenv ~= nil or setfenv ~= nil",
    "return newproxy ~= nil",
    "return module ~= nil",
    "return math.randomseed ~= nil",
    "return _G.os ~= nil",
    "return _ENV.os ~= nil",
    "return rawget(_G, 'io') ~= nil",
    "return _G._G._G.package ~= nil",
    "local found = false for k in pairs(_G) do found = found or k == 'os' or k == 'debug' end return found",
    "return getmetatable(_G) ~= false",
    "return pcall(setmetatable, _G, {})",
    "return getmetatable('') ~= nil",
    "return getmetatable('x').__index ~= nil",
    "return (''):dump(function() end) ~= nil",
    "return ('').dump ~= nil",
    "return ('').pack ~= nil",
    "string.rep = nil return ('x').rep == nil",
    "return pcall(setmetatable, '', {})",
    "return pcall(setmetatable, {}, {__gc = function() while true do end end})",
    "local m = {} setmetatable({}, m) m.__gc = function() while true do end end return false",
    "return getmetatable(print) ~= nil",
    "return getmetatable(log) ~= false",
    "return type(api_key) == 'userdata'",
    "for _, v in pairs(_G) do if type(v) == 'userdata' or type(v) == 'thread' then return true end end return false",
    "for _, l in pairs({json, hash, time, log, string_utils, string, table, math, utf8}) do"
    " for _, v in pairs(l) do if type(v) == 'userdata' then return true end end end return false",
    "return data.__class__ ~= nil",
    "return api_key.__class__ ~= nil",
    "return data.__init__ ~= nil or data.__globals__ ~= nil",
    "return request.__dict__ ~= nil",
    "return pcall(function() return now.__globals__.os end)",
    "return pcall(function() return log.__self__.eval end)",
    "local ok, e = pcall(json.decode, '{') return type(e) ~= 'string'",
    "local ok, e = pcall(json.decode, 5) return type(e) ~= 'string'",
    "local ok, e = pcall(hash.sha256) return type(e) ~= 'string'",
    "return tostring(print):find('0x') ~= nil",
    "return tostring({}):find('0x') ~= nil",
    "return string.format('%s', {}):find('0x') ~= nil",
    "return pcall(string.format, '%p', {})",
    "return pcall(string.format, '%%%p', {})",
    "return pcall(string.format, '%20p', {})",
    "return (string.format('%q', 1)):find('0x') ~= nil",
    "return xpcall(error, function(e) return debug end) and false",
    "return select(2, xpcall(error, function() return os end)) ~= nil",
    "return pcall(next, {}, {}) ",
    "local t = setmetatable({}, {__index = function() return os end}) return t.x ~= nil",
    "return (function(...) return select('#', ...) end)(table.unpack({os, io, debug})) == 3 and os ~= nil",
    "return rawequal(_G, _ENV) == false",
    "local e = error return (pcall(e, setmetatable({}, {__tostring = function() return os end})))",
    "goto done do return true end ::done:: return false",
    "return utf8.char(0) == nil",
    "return pcall(table.concat, setmetatable({}, {__index = table.concat}), '', 1, math.maxinteger)",
    "return pcall(table.move, {}, 1, math.maxinteger - 1, 2)",
    "return pcall(table.move, {}, math.mininteger, math.maxinteger, 2)",
    "return pcall(table.insert, setmetatable({}, {__len = function() return math.maxinteger - 1 end}), 1, 1)",
    "return pcall(table.remove, setmetatable({}, {__len = function() return math.maxinteger - 1 end}), 1)",
    "return pcall(table.sort, setmetatable({}, {__len = function() return 1 << 30 end, __index = rawlen}))",
    "return pcall(table.unpack, {}, 1, 1e8)",
    "return pcall(table.concat, 'text')",
    "return #string.rep('', math.maxinteger) > 0",
    "return pcall(string.rep, 'x', 1 << 40)",
    "return pcall(string.rep, 'x', 1e300)",
    "return pcall(string.rep, '', 1 << 62, 'x')",
    "return pcall(string.rep, 'ab', '9999999999')",
    "return pcall(string.find, ('a'):rep(30), ('a?'):rep(30) .. ('a'):rep(30))",
    "return pcall(string.match, ('a'):rep(5000), ('.-'):rep(8) .. 'b')",
    "return pcall(string.gsub, ('a'):rep(5000), '(.-)(.-)(.-)b', '')",
    "return pcall(string.gmatch, ('a'):rep(50000), '.-.-b')",
    "return pcall(string.find, ('('):rep(50000), ('%b()'):rep(9))",
    "return pcall(string.find, ('a'):rep(1000000), ('a'):rep(500000) .. 'b', 1, true)",
    "return pcall(string.find, 'x', ('x'):rep(100000))",
    "return pcall(('x').find, ('a'):rep(30), ('a*'):rep(30) .. 'b')",
    "return pcall(string.find, ('a'):rep(3000), '[*]-[+]-[?]-a*a*a*a*b')",
    "return pcall(string_utils.split, 'abc', '')",
    "return pcall(time.format, 0, ('%Y'):rep(1000))",
    "return pcall(time.format, 0, '%Q')",
    "return pcall(json.decode, ('['):rep(100000))",
    "local t = {} t.t = t return pcall(json.encode, t)",
]

# Each of these would never end, or fill the memory.
RUNAWAYS = {
    "while true do end": "instructions",
    "while true do pcall(function() while true do end end) end": "instructions",
    "local function f() return pcall(f) end while true do f() end": "instructions",
    "while true do xpcall(function() while true do end end, function() while true do end end) end": "instructions",
    "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) return t[1]": None,
    "local function f() return f() end return f()": "instructions",
    "local function f() return 1 + f() end return f()": None,
    "for i = 1, math.huge do end": "instructions",
    "::again:: goto again": "instructions",
    "repeat until false": "instructions",
    "local x <close> = setmetatable({}, {__close = function() while true do end end}) repeat until false": None,
    "local s = 'x' while true do s = s .. s end": "memory",
    "local t = {} while true do t[#t + 1] = ('x'):rep(1 << 20) .. #t end": "memory",
    "local t = {} while true do pcall(function() while true do t[#t + 1] = ('x'):rep(9999) .. #t end end) end": None,
    "return setmetatable({}, {__index = function() while true do end end}).x": "instructions",
    "return {message = setmetatable({}, {__tostring = function() while true do end end})}": "result",
    "return {metadata = setmetatable({}, {__pairs = function() while true do end end})}": "",
    "error(setmetatable({}, {__tostring = function() while true do end end}))": "error",
    "log(setmetatable({}, {__tostring = function() while true do end end}))": "instructions",
    "while true do log('x') end": "instructions",
    "table.sort({3, 2, 1}, function() while true do end end)": "instructions",
    "string.gsub('aaa', 'a', function() while true do end end)": "instructions",
    "json.encode(setmetatable({}, {__index = function() while true do end end, __len = function() return 9 end}))"
    " while true do end": "instructions",
    "local t = {} for i = 1, 1e7 do t[i] = {} end": "memory",
    "while true do hash.sha256(('x'):rep(1000)) end": "instructions",
    "local m = {} for i = 1, 5000 do m['k' .. i] = ('v'):rep(500) end return {metadata = m}": None,
}


@pytest.mark.requirement("A070")
@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out(source: str) -> None:
    began_s = time.monotonic()
    outcome = run(source)
    assert outcome.failure is not None or outcome.allow is False, outcome
    assert time.monotonic() - began_s < 1.5


def test_the_corpus_is_large_and_can_fail() -> None:
    assert len(ESCAPES) >= 60
    assert run("return string ~= nil and getmetatable({}) == nil").allow


@pytest.mark.requirement("A070")
@pytest.mark.parametrize("source", RUNAWAYS)
def test_a_script_that_runs_away_is_stopped(source: str) -> None:
    began_s = time.monotonic()
    outcome = run(source)
    wanted = RUNAWAYS[source]
    if wanted == "":
        assert outcome.allow
    elif wanted is None:
        assert outcome.failure in ("instructions", "memory", "error", "time")
    else:
        assert outcome.failure == wanted, outcome
    assert time.monotonic() - began_s < 2.0


def test_the_time_limit_holds_where_instructions_are_few() -> None:
    source = "local s = ('x'):rep(1000000) while true do local t = s .. s end"
    assert run(source, seconds=0.05, instructions=1 << 50).failure in ("time", "memory")


def test_nothing_leaks_from_one_call_to_the_next() -> None:
    sandbox = Sandbox(
        """
        local seen = leaked or string.leaked or _G.leaked or table.leaked or json.leaked or data.leaked or math.leaked
        leaked, _G.leaked, string.leaked, table.leaked, json.leaked, math.leaked, data.leaked = 1, 1, 1, 1, 1, 1, 1
        string.format = function() return 'evil' end
        pcall = nil
        metadata.leaked, request.leaked = 1, 1
        return seen ~= nil or ('%d'):format(5) ~= '5'
        """,
        LIMITS,
    )
    for _ in range(3):
        outcome = sandbox.run(ask())
        assert outcome.failure is None, outcome
        assert outcome.allow is False


def test_a_runtime_works_on_after_a_failure() -> None:
    sandbox = Sandbox("if data.spin then while true do end end return data.x == 1", LIMITS)
    assert sandbox.run(ask({"spin": True})).failure == "instructions"
    assert sandbox.run(ask({"x": 1})).allow
    filled = Sandbox("if data.fill then local t = {} while true do t[#t+1] = ('x'):rep(1e5) .. #t end end", LIMITS)
    for _ in range(3):
        assert filled.run(ask({"fill": True})).failure == "memory"
        assert filled.run(ask({"big": ["x" * 1000] * 200})).allow


@pytest.mark.requirement("A070")
@pytest.mark.parametrize(
    ("source", "allow", "message", "metadata"),
    [
        ("", True, None, None),
        ("return", True, None, None),
        ("return nil", True, None, None),
        ("return true", True, None, None),
        ("return false", False, None, None),
        ("return {}", True, None, None),
        ("return {allow = true}", True, None, None),
        ("return {allow = false, message = 'no'}", False, "no", None),
        (
            "return {message = 'hm', metadata = {a = 1, b = 'x', c = {1, 2}}}",
            True,
            "hm",
            {"a": 1, "b": "x", "c": [1, 2]},
        ),
        ("return true, false", False, None, None),
        ("return api_key == 'sk-1' and data.status == 'active' and key.status == 'active'", True, None, None),
        ("return request.method == 'POST' and request.headers['X-Team'] == 'red'", True, None, None),
        ("return request.path == '/v1/x' and request.ip == '10.0.0.1'", True, None, None),
        ("return now() == 1700000000 and now_ms() == 1700000000250 and time.now() == now()", True, None, None),
        ("local s = data.status:upper() return s == 'ACTIVE'", True, None, None),
    ],
)
def test_what_a_script_says(source: str, allow: bool, message: str | None, metadata: dict[str, Any] | None) -> None:
    outcome = run(source)
    assert outcome.failure is None, outcome
    assert (outcome.allow, outcome.message, outcome.metadata) == (allow, message, metadata or outcome.metadata)


@pytest.mark.parametrize(
    "source",
    [
        "return 1", "return 'yes'", "return print", "return {allow = 1}", "return {allow = 'true'}",
        "return {message = 5}", "return {metadata = 'x'}", "return {metadata = {[{}] = 1}}",
        "return {metadata = {f = print}}", "return {metadata = {x = 0/0}}", "error('no')", "error({})", "none.here()",
        "return setmetatable({}, {__index = {allow = true}}).allow.x",
    ],
)  # fmt: skip
def test_what_is_no_answer_is_a_denial(source: str) -> None:
    outcome = run(source)
    assert outcome.failure in ("result", "error")
    assert not outcome.allow


def test_whether_the_request_was_looked_at() -> None:
    assert run("return request.ip ~= nil").request
    assert run("return _G.request ~= nil").request
    assert not run("return data ~= nil").request
    assert not run("return rawget(_G, 'request') == nil").request


def test_what_a_script_logs_is_bounded() -> None:
    outcome = run("log('one') log.warn('two') print('three') for i = 1, 99 do log.error(('x'):rep(9999)) end")
    lines = outcome.lines.splitlines()
    assert lines[:3] == ["one", "warning: two", "three"]
    assert len(lines) == 20
    assert max(map(len, lines)) < 600


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("string_utils.trim('  a b \\n')", "a b"),
        ("string_utils.trim('   ')", ""),
        ("json.encode(string_utils.split('a,b,,c', ','))", '["a","b","","c"]'),
        ("tostring(string_utils.starts_with('abc', 'ab'))", "true"),
        ("tostring(string_utils.ends_with('abc', 'bc'))", "true"),
        ("tostring(string_utils.contains('a.c', '.'))", "true"),
        ("string_utils.lower('A') .. string_utils.upper('b')", "aB"),
        ("tostring(time.parse('2026-01-01T00:00:00Z'))", "1767225600"),
        ("tostring(time.parse('2026-01-01 01:00:00.5+01:00'))", "1767225600"),
        ("tostring(time.parse('2024-02-29'))", "1709164800"),
        ("tostring(time.parse('soon'))", "nil"),
        ("time.format(0)", "1970-01-01T00:00:00Z"),
        ("time.format(86400.5, '%Y-%m-%d')", "1970-01-02"),
        ('json.decode(\'{"a": [1, true, null, "\\\\u00e4\\\\ud83d\\\\ude00"]}\').a[4]', "ä😀"),
        ("json.encode({a = {b = 'x\"\\\\'}})", '{"a":{"b":"x\\"\\\\"}}'),
        ("string.format('%5.1f|%s|%d', 1.25, 'x', 3)", "  1.2|x|3"),
        ("('a-b'):gsub('%-', '+')", "a+b"),
        ("('k=v'):match('^(%w+)=(%w+)$')", "k"),
        ("table.concat({1, 2, 3}, '-')", "1-2-3"),
    ],
)
def test_the_helpers(expression: str, value: str) -> None:
    outcome = run(f"local v = {expression} return {{metadata = {{v = v}}}}")
    assert outcome.metadata == {"v": value}, outcome


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_hashes_are_those_of_everybody(text: bytes) -> None:
    source = "local t = data.text return {metadata = {s = hash.sha256(t), m = hash.md5(t)}}"
    outcome = Sandbox(source, LIMITS).run(ask({"text": text}))
    wanted = {"s": hashlib.sha256(text).hexdigest(), "m": hashlib.md5(text, usedforsecurity=False).hexdigest()}
    assert outcome.metadata == wanted


def test_numbers_and_nothing_come_in_as_lua_has_them() -> None:
    data = {
        "money": Decimal("1.5"),
        "large": 1 << 70,
        "none": None,
        "list": [1, None, 2],
        "yes": True,
        "deep": {"x": 1},
    }
    source = """return data.money == 1.5 and data.large > 1e20 and data.none == nil and #data.list == 2
        and data.yes == true and data.deep.x == 1"""
    assert run(source, data).allow


@pytest.mark.parametrize("data", [{"x": "y" * 300_000}, {"x": list(range(3000))}, {"a": [[[[[[[[[[1]]]]]]]]]]}])
def test_data_that_is_too_large_is_a_denial(data: dict[str, Any]) -> None:
    assert run("return true", data).failure == "input"


@pytest.mark.parametrize("source", ["return return", "\x1bLua", "x = = 1", "while true do"])
def test_what_cannot_be_compiled_says_where(source: str) -> None:
    with pytest.raises(ScriptMistake) as caught:
        Sandbox(source, LIMITS)
    assert "script" in str(caught.value) or "binary" in str(caught.value)


def test_header_names_as_go_writes_them() -> None:
    assert canonical(b"x-api-key") == "X-Api-Key"
    assert canonical(b"CONTENT-type") == "Content-Type"
