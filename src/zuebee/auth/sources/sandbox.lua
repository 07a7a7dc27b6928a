-- The walls around a decision script (docs/auth.md). Loaded once for each runtime; it gives back `prepare`.
-- No object of Python is ever in reach of a script: what goes in and out are tables, strings, numbers and booleans.

local debug_sethook, metatable_of, setupvalue = debug.sethook, debug.getmetatable, debug.setupvalue
local clock, date = os.clock, os.date
local error, pcall, type, next, select, tostring, tonumber = error, pcall, type, next, select, tostring, tonumber
local rawget, rawset, rawlen, setmetatable, getmetatable, load = rawget, rawset, rawlen, setmetatable, getmetatable, load
local floor, tointeger, math_type, huge = math.floor, math.tointeger, math.type, math.huge
local find, match, gmatch, gsub, sub = string.find, string.match, string.gmatch, string.gsub, string.sub
local byte, char, rep, format, lower, upper = string.byte, string.char, string.rep, string.format, string.lower, string.upper
local concat, unpack, insert, remove = table.concat, table.unpack, table.insert, table.remove
local sort, move, pack = table.sort, table.move, table.pack
local reverse, utf8_char, abs, sin = string.reverse, utf8.char, math.abs, math.sin

local HOOK_EVENT = "count"       -- kept alive: the hook must not allocate
local HOOK_EVERY = 200          -- instructions between two looks at the budget
local MAX_TEXT = 1 << 20        -- bytes that string.rep may make
local MAX_MOVE = 1 << 16        -- entries that table.move may move
local MAX_PATTERN = 1000        -- bytes of a pattern
local MAX_STEPS = 5e7           -- steps that one matching may take at worst
local MAX_DEPTH = 32            -- nesting of JSON
local MAX_LINES, MAX_LINE = 20, 500

-- --- functions written in C run to their end, whatever the hook says: none may run for long ---

local function wrong(text) error(text, 3) end

-- The worst that backtracking can do: each repetition may try every length, at every place.
local function check_pattern(subject, pattern, from_each_place)
  if type(subject) == "number" then subject = tostring(subject) end
  if type(pattern) == "number" then pattern = tostring(pattern) end
  if type(subject) ~= "string" or type(pattern) ~= "string" then wrong("expected a string and a pattern") end
  if #pattern > MAX_PATTERN then wrong("the pattern is too long") end
  local bare, escapes = gsub(pattern, "%%.", "")
  local _, special = 0, 0
  if escapes > 0 then _, special = gsub(pattern, "%%[b0-9]", "") end
  local _, repeats = gsub(gsub(bare, "%[%^?%]?[^%]]*%]", ""), "[*+?-]", "")
  local power = repeats + special
  if from_each_place or byte(pattern) ~= 94 then power = power + 1 end
  if (#subject + 1.0) ^ power * (1 + #pattern / 16) > MAX_STEPS then
    wrong("the pattern could take too long on a text of this length")
  end
  return subject, pattern
end

local function plain_table(t)
  if type(t) ~= "table" then wrong("expected a table, got " .. type(t)) end
  local mt = metatable_of(t)
  if mt and (rawget(mt, "__index") ~= nil or rawget(mt, "__newindex") ~= nil or rawget(mt, "__len") ~= nil) then
    wrong("not for tables with __index, __newindex or __len")
  end
end

local function say(value)
  local kind = type(value)
  if kind == "table" then
    local mt = metatable_of(value)
    return mt and rawget(mt, "__tostring") ~= nil and tostring(value) or "table"
  end
  return kind == "function" and "function" or tostring(value)
end

local strings = {
  byte = byte, char = char, len = string.len, lower = lower, upper = upper, reverse = reverse, sub = sub,
  find = function(s, p, init, plain)
    if plain then
      if #tostring(s) * #tostring(p) > MAX_STEPS then wrong("the texts are too long") end
      return find(s, p, init, true)
    end
    s, p = check_pattern(s, p)
    return find(s, p, init)
  end,
  match = function(s, p, init)
    s, p = check_pattern(s, p)
    return match(s, p, init)
  end,
  gmatch = function(s, p)
    s, p = check_pattern(s, p, true)
    return gmatch(s, p)
  end,
  gsub = function(s, p, r, n)
    s, p = check_pattern(s, p)
    return gsub(s, p, r, n)
  end,
  rep = function(s, n, sep)
    if type(s) == "number" then s = tostring(s) end
    local times = tointeger(tonumber(n))
    if type(s) ~= "string" or not times or (sep ~= nil and type(sep) ~= "string") then wrong("bad argument to rep") end
    if times <= 0 or #s + #(sep or "") == 0 then return "" end
    if times > MAX_TEXT or (#s + #(sep or "")) * times > MAX_TEXT then wrong("the text would be too long") end
    return rep(s, times, sep)
  end,
  format = function(form, ...)
    if type(form) ~= "string" then wrong("expected a format") end
    if find(gsub(form, "%%%%", ""), "%%[-+ #0-9.]*p") then wrong("%p is not available") end
    local values = { ... }
    local count = select("#", ...)
    for i = 1, count do
      if type(values[i]) == "table" or type(values[i]) == "function" then values[i] = say(values[i]) end
    end
    return format(form, unpack(values, 1, count))
  end,
}

local tables = {
  pack = pack,
  concat = function(t, ...) plain_table(t) return concat(t, ...) end,
  insert = function(t, ...) plain_table(t) return insert(t, ...) end,
  remove = function(t, ...) plain_table(t) return remove(t, ...) end,
  sort = function(t, by) plain_table(t) return sort(t, by) end,
  unpack = function(t, ...) plain_table(t) return unpack(t, ...) end,
  move = function(a, f, e, t, b)
    plain_table(a)
    if b ~= nil then plain_table(b) end
    local first, last = tointeger(tonumber(f)), tointeger(tonumber(e))
    if not first or not last then wrong("expected integers") end
    -- The difference of two integers may wrap around.
    if last >= first and (last - first < 0 or last - first > MAX_MOVE) then wrong("too many entries") end
    return move(a, first, last, t, b)
  end,
}

local maths = {}
for name, value in next, math do
  if name ~= "random" and name ~= "randomseed" then maths[name] = value end
end

local texts = {}
for name, value in next, utf8 do texts[name] = value end

-- --- helpers, by the names of LLMProxy ---

local string_utils = {
  split = function(s, separator)
    if type(s) ~= "string" or type(separator) ~= "string" or separator == "" then wrong("expected two texts") end
    local parts, from = {}, 1
    while true do
      local first, last = strings.find(s, separator, from, true)
      if not first then break end
      parts[#parts + 1] = sub(s, from, first - 1)
      from = last + 1
    end
    parts[#parts + 1] = sub(s, from)
    return parts
  end,
  trim = function(s)
    local first = find(s, "%S")
    return first and match(s, ".*%S", first) or ""
  end,
  starts_with = function(s, start) return sub(s, 1, #start) == start end,
  ends_with = function(s, ending) return ending == "" or sub(s, -#ending) == ending end,
  contains = function(s, part) return strings.find(s, part, 1, true) ~= nil end,
  lower = lower,
  upper = upper,
}

local function days_before(year, month, day)  -- days since 1970-01-01, Gregorian
  if month <= 2 then year = year - 1 end
  local era = year // 400
  local of_era = year - era * 400
  local of_year = (153 * (month + (month > 2 and -3 or 9)) + 2) // 5 + day - 1
  return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
end

local function parse_time(text)
  if type(text) ~= "string" or #text > 40 then return nil end
  local y, m, d, rest = match(text, "^(%d%d%d%d)-(%d%d)-(%d%d)(.*)$")
  if not y then return nil end
  local at = days_before(tointeger(y), tointeger(m), tointeger(d)) * 86400
  if rest == "" then return at end
  local h, mi, s, zone = match(rest, "^[Tt ](%d%d):(%d%d):(%d%d)%.?%d*(.*)$")
  if not h then return nil end
  at = at + tointeger(h) * 3600 + tointeger(mi) * 60 + tointeger(s)
  if zone == "" or zone == "Z" or zone == "z" then return at end
  local sign, zh, zm = match(zone, "^([+-])(%d%d):?(%d%d)$")
  if not sign then return nil end
  local offset = tointeger(zh) * 3600 + tointeger(zm) * 60
  return sign == "+" and at - offset or at + offset
end

local function format_time(at, form)
  at = floor(tonumber(at))
  if type(form) ~= "string" then form = "%Y-%m-%dT%H:%M:%SZ" end
  if #form > 100 then wrong("the format is too long") end
  return date("!" .. form, at)
end

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }
local function escape(c) return ESCAPES[c] or format("\\u%04x", byte(c)) end

local encode
local function encode_table(t, depth)
  if depth > MAX_DEPTH then error("json: nested too deeply", 0) end
  local parts, count = {}, rawlen(t)
  if count > 0 then
    for i = 1, count do parts[i] = encode(rawget(t, i), depth + 1) end
    return "[" .. concat(parts, ",") .. "]"
  end
  for k, v in next, t do
    if type(k) ~= "string" and type(k) ~= "number" then error("json: a key is no text", 0) end
    parts[#parts + 1] = encode(tostring(k), depth) .. ":" .. encode(v, depth + 1)
  end
  return "{" .. concat(parts, ",") .. "}"
end

function encode(value, depth)
  local kind = type(value)
  if kind == "string" then return '"' .. gsub(value, '[%c"\\]', escape) .. '"' end
  if kind == "table" then return encode_table(value, depth) end
  if kind == "boolean" then return tostring(value) end
  if kind == "nil" then return "null" end
  if kind ~= "number" then error("json: a " .. kind .. " cannot be encoded", 0) end
  if math_type(value) == "integer" then return format("%d", value) end
  if value ~= value or value == huge or value == -huge then error("json: not a finite number", 0) end
  return format("%.17g", value)
end

local UNESCAPED = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

local function decode_text(s, at)
  local parts = {}
  while true do
    local stop = find(s, '["\\%c]', at)
    if not stop then error("json: a text without an end", 0) end
    parts[#parts + 1] = sub(s, at, stop - 1)
    local c = sub(s, stop, stop)
    if c == '"' then return concat(parts), stop + 1 end
    local follows = c == "\\" and sub(s, stop + 1, stop + 1) or ""
    if follows == "u" then
      local code = tonumber(match(s, "^%x%x%x%x", stop + 2) or error("json: a bad escape", 0), 16)
      at = stop + 6
      local low = code >= 0xD800 and code < 0xDC00 and match(s, "^\\u([dD][c-fC-F]%x%x)", at)
      if low then
        code = 0x10000 + ((code - 0xD800) << 10) + (tonumber(low, 16) - 0xDC00)
        at = at + 6
      end
      parts[#parts + 1] = utf8_char(code)
    else
      parts[#parts + 1] = UNESCAPED[follows] or error("json: a bad text", 0)
      at = stop + 2
    end
  end
end

local function blank(s, at) return match(s, "^[ \n\r\t]*()", at) end
local WORDS = { t = { "true", true }, f = { "false", false }, n = { "null", nil } }

local decode
local function decode_table(s, at, depth)
  if depth > MAX_DEPTH then error("json: nested too deeply", 0) end
  local is_list = sub(s, at, at) == "["
  local closing, found, index = is_list and "]" or "}", {}, 0
  at = blank(s, at + 1)
  if sub(s, at, at) == closing then return found, at + 1 end
  while true do
    local key
    if is_list then
      index = index + 1
      key = index
    else
      if sub(s, at, at) ~= '"' then error("json: expected a key", 0) end
      key, at = decode_text(s, at + 1)
      at = blank(s, at)
      if sub(s, at, at) ~= ":" then error("json: expected a colon", 0) end
      at = at + 1
    end
    found[key], at = decode(s, at, depth + 1)
    at = blank(s, at)
    local c = sub(s, at, at)
    if c == closing then return found, at + 1 end
    if c ~= "," then error("json: expected a comma", 0) end
    at = blank(s, at + 1)
  end
end

function decode(s, at, depth)
  at = blank(s, at)
  local c = sub(s, at, at)
  if c == '"' then return decode_text(s, at + 1) end
  if c == "{" or c == "[" then return decode_table(s, at, depth) end
  local word = WORDS[c]
  if word then
    if sub(s, at, at + #word[1] - 1) ~= word[1] then error("json: not JSON", 0) end
    return word[2], at + #word[1]
  end
  local number, after = match(s, "^(-?%d+%.?%d*[eE]?[+-]?%d*)()", at)
  local value = number and tonumber(number)
  if not value then error("json: not JSON", 0) end
  return value, after
end

local json = {
  encode = function(value) return encode(value, 0) end,
  decode = function(s)
    if type(s) ~= "string" then wrong("expected a text") end
    local value, at = decode(s, 1, 0)
    if blank(s, at) <= #s then error("json: more than one value", 0) end
    return value
  end,
}

-- --- FIPS 180-4 and RFC 1321 ---

local function hex(...) return format(rep("%08x", select("#", ...)), ...) end

local function padded(s, big_endian)
  local length = format("%016x", #s * 8)
  local bytes = {}
  for pair in gmatch(length, "%x%x") do bytes[#bytes + 1] = char(tonumber(pair, 16)) end
  local text = concat(bytes)
  if not big_endian then text = reverse(text) end
  return s .. "\128" .. rep("\0", (55 - #s) % 64) .. text
end

local function fraction(x) return floor((x - floor(x)) * 4294967296) end
local K256, START256, SINES = {}, {}, {}
do
  local prime, count = 2, 0
  while count < 64 do
    local is_prime = true
    for d = 2, floor(prime ^ 0.5) do if prime % d == 0 then is_prime = false break end end
    if is_prime then
      count = count + 1
      K256[count] = fraction(prime ^ (1 / 3))
      if count <= 8 then START256[count] = fraction(prime ^ 0.5) end
    end
    prime = prime + 1
  end
  for i = 1, 64 do SINES[i] = floor(abs(sin(i)) * 4294967296) end
end
local TURNS = { 7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21 }

local function right(x, n) return (x >> n | x << (32 - n)) & 0xffffffff end

local function sha256(s)
  if type(s) ~= "string" then wrong("expected a text") end
  local m, state = padded(s, true), { unpack(START256) }
  for from = 1, #m, 64 do
    local w = {}
    for i = 0, 15 do
      local a, b, c, d = byte(m, from + i * 4, from + i * 4 + 3)
      w[i] = a << 24 | b << 16 | c << 8 | d
    end
    for i = 16, 63 do
      local x, y = w[i - 15], w[i - 2]
      local s0, s1 = right(x, 7) ~ right(x, 18) ~ (x >> 3), right(y, 17) ~ right(y, 19) ~ (y >> 10)
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) & 0xffffffff
    end
    local a, b, c, d, e, f, g, h = unpack(state)
    for i = 0, 63 do
      local t1 = h + (right(e, 6) ~ right(e, 11) ~ right(e, 25)) + (e & f ~ ~e & g) + K256[i + 1] + w[i]
      local t2 = (right(a, 2) ~ right(a, 13) ~ right(a, 22)) + (a & b ~ a & c ~ b & c)
      h, g, f, e, d, c, b, a = g, f, e, (d + t1) & 0xffffffff, c, b, a, (t1 + t2) & 0xffffffff
    end
    for i, x in next, { a, b, c, d, e, f, g, h } do state[i] = (state[i] + x) & 0xffffffff end
  end
  return hex(unpack(state))
end

local function md5(s)
  if type(s) ~= "string" then wrong("expected a text") end
  local m, A, B, C, D = padded(s, false), 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476
  for from = 1, #m, 64 do
    local a, b, c, d = A, B, C, D
    for i = 0, 63 do
      local f, g
      if i < 16 then f, g = b & c | ~b & d, i
      elseif i < 32 then f, g = d & b | ~d & c, (5 * i + 1) % 16
      elseif i < 48 then f, g = b ~ c ~ d, (3 * i + 5) % 16
      else f, g = c ~ (b | ~d & 0xffffffff), 7 * i % 16 end
      local w, x, y, z = byte(m, from + g * 4, from + g * 4 + 3)
      local sum = (a + (f & 0xffffffff) + SINES[i + 1] + (w | x << 8 | y << 16 | z << 24)) & 0xffffffff
      a, d, c, b = d, c, b, (b + right(sum, 32 - TURNS[i // 16 * 4 + i % 4 + 1])) & 0xffffffff
    end
    A, B, C, D = (A + a) & 0xffffffff, (B + b) & 0xffffffff, (C + c) & 0xffffffff, (D + d) & 0xffffffff
  end
  local function turned(x) return (x & 255) << 24 | (x >> 8 & 255) << 16 | (x >> 16 & 255) << 8 | x >> 24 end
  return hex(turned(A), turned(B), turned(C), turned(D))
end

-- --- what a script can reach ---

-- Out of memory is the end: where nothing can be allocated the hook fails too, and a loop of pcalls would never stop.
local function settle(ok, err, ...)
  if not ok and err == "not enough memory" then error(err, 0) end
  return ok, err, ...
end
local function protected(f, ...) return settle(pcall(f, ...)) end

local base = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, pcall = protected, rawequal = rawequal,
  rawget = rawget, rawlen = rawlen, rawset = rawset, select = select, tonumber = tonumber, type = type,
  tostring = say,
  _VERSION = _VERSION,
  -- Lua's own calls the handler where the error is: in the hook, if that stopped the script, and there no hook runs.
  xpcall = function(f, handler, ...)
    local results = pack(protected(f, ...))
    if results[1] then return unpack(results, 1, results.n) end
    return false, handler(results[2])
  end,
  getmetatable = function(value) if type(value) == "table" then return getmetatable(value) end end,
  setmetatable = function(t, mt)
    if type(t) ~= "table" or (mt ~= nil and type(mt) ~= "table") then wrong("expected tables") end
    -- Finalizers run without the hook.
    if mt and rawget(mt, "__gc") ~= nil then wrong("__gc is not available") end
    return setmetatable(t, mt)
  end,
}
local libraries = {
  string = strings, table = tables, math = maths, utf8 = texts, string_utils = string_utils, json = json,
  hash = { sha256 = sha256, md5 = md5 },
}

local function copy_of(t)
  local copy = {}
  for k, v in next, t do copy[k] = v end
  return copy
end

local function make_log(lines)
  local function write(level)
    return function(text)
      if #lines < MAX_LINES then lines[#lines + 1] = level .. sub(say(text), 1, MAX_LINE) end
    end
  end
  local info = write("")
  return setmetatable(
    { info = info, warn = write("warning: "), error = write("error: ") },
    { __call = function(_, text) info(text) end, __metatable = false }
  )
end

-- The global environment of one call. `request` is put there when it is first asked for, so that it is known
-- whether the decision may be used for other requests.
local function environment(api_key, data, request, metadata, now, seen)
  local env = copy_of(base)
  for name, library in next, libraries do env[name] = copy_of(library) end
  env._G = env
  env.api_key, env.data, env.key, env.metadata = api_key, data, data, metadata
  env.now = function() return floor(now) end
  env.now_ms = function() return floor(now * 1000) end
  env.log = make_log(seen.lines)
  env.print = env.log.info
  env.time = { now = env.now, format = format_time, parse = parse_time }
  local function touch(t, name)
    if name == "request" then
      seen.request = true
      rawset(t, name, request)
      return request
    end
  end
  return setmetatable(env, { __index = touch, __metatable = false })
end

local function text_of(err)
  if type(err) == "string" or type(err) == "number" then return sub(tostring(err), 1, MAX_LINE) end
  return "an error of type " .. type(err)
end

-- Only the last value that the chunk returns counts.
local function judge(...)
  local count = select("#", ...)
  local value = nil
  if count > 0 then value = select(count, ...) end
  if value == nil then return { allow = true } end
  if type(value) == "boolean" then return { allow = value } end
  if type(value) ~= "table" then return { failure = "result", text = "it returned a " .. type(value) } end
  local allow, message, metadata = rawget(value, "allow"), rawget(value, "message"), rawget(value, "metadata")
  if allow == nil then allow = true end
  if type(allow) ~= "boolean" then return { failure = "result", text = "`allow` is no boolean" } end
  if message ~= nil and type(message) ~= "string" then return { failure = "result", text = "`message` is no text" } end
  if metadata ~= nil and type(metadata) ~= "table" then return { failure = "result", text = "`metadata` is no table" } end
  return { allow = allow, message = message, metadata = metadata }
end

-- Compiles a script, as text only. Gives back the function that runs it; or nothing and the mistake.
local function prepare(source, max_instructions, max_seconds)
  local chunk, mistake = load(source, "=script", "t", {})
  if not chunk then return nil, mistake end

  local function run(api_key, data, request, metadata, now)
    local seen = { lines = {} }
    local env = environment(api_key, data, request, metadata, now, seen)
    setupvalue(chunk, 1, env)
    local left, stop_at, over = max_instructions // HOOK_EVERY, clock() + max_seconds, nil
    -- Once over, every further instruction fails: no pcall helps.
    local function fail() error(over, 0) end
    debug_sethook(function()
      left = left - 1
      if left < 0 then over = "over: instructions" elseif clock() > stop_at then over = "over: time" else return end
      debug_sethook(fail, "", 1)
      error(over, 0)
    end, "", HOOK_EVERY)
    local results = pack(pcall(chunk))
    local outcome
    if results[1] then
      outcome = judge(unpack(results, 2, results.n))
    else
      outcome = { failure = "error", text = text_of(results[2]) }
    end
    outcome.request = seen.request
    outcome.lines = concat(seen.lines, "\n")
    local encoded = encode(outcome, 0)
    debug_sethook()
    return encoded
  end

  return run
end

-- Nothing of the host stays in the globals of this runtime, whoever reaches them.
local locked = metatable_of("")
locked.__index, locked.__metatable = copy_of(strings), false
local disarm = debug_sethook
local globals, registered = _G, package.loaded
for name in next, registered do registered[name] = nil end
for name in next, globals do globals[name] = nil end
return prepare, disarm
