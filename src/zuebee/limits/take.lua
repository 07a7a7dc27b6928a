-- Many requests against many counters in one call: each takes a permit under all its rules, or counts nowhere.
--
-- KEYS     the counters.
-- ARGV[1]  MessagePack: {specs, operations, lease in us}.
--   spec       {form, window in us} of each key; form 1: window of slots, 2: token bucket, 3: leases.
--   operation  {1, lease, tokens, rules}  take; rule: {key, limit, burst, 1 if it counts tokens}
--              {2, lease, keys, corrections}  give back; correction: {key, limit, delta, at in us, birth}
--              {3, lease, keys}  renew
-- Answers  {now in us, then for each taker {rule that refused or 0, us until it fits, used and birth for each rule}}
--
-- Time is Redis' own. A window is a hash: s newest slot, t total, b birth, and a ring of 61 slots. It lets go of what
-- it counted at most a 60th of the window late, and never early. Counters are read once and written once a call.

local SLOTS, RING = 60, 61
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local input = cmsgpack.unpack(ARGV[1])
local specs, operations, lease_us = input[1], input[2], input[3]
local states = {}

local function load_window(key, us)
  local slot_us = us / SLOTS
  local current = math.floor(now / slot_us)
  local got = redis.call('HMGET', key, 's', 't', 'b', current % RING)
  local newest, total, birth = tonumber(got[1]), tonumber(got[2]) or 0, tonumber(got[3])
  local state = {slot_us = slot_us, us = us, cells = {}, dirty = {}, gone = {}}
  if not newest then
    newest, total, birth = current, 0, now
    state.cells[current % RING] = 0
  elseif newest == current then
    state.cells[current % RING] = tonumber(got[4]) or 0
  elseif newest > current then
    current = newest -- the clock went back: the newest slot stays
  elseif current - newest >= RING then
    total, state.wipe = 0, true
    state.cells[current % RING] = 0
  else
    for slot = newest + 1, current do state.gone[#state.gone + 1] = slot % RING end
    local old = redis.call('HMGET', key, unpack(state.gone))
    for i = 1, #state.gone do
      total = total - (tonumber(old[i]) or 0)
      state.cells[state.gone[i]] = 0
    end
  end
  state.current, state.total, state.birth = current, total, birth
  return state
end

local function load(k)
  local state = states[k]
  if state then return state end
  local form, us, key = specs[k][1], specs[k][2], KEYS[k]
  if form == 1 then
    state = load_window(key, us)
  elseif form == 2 then
    state = {us = us, full_at = tonumber(redis.call('GET', key) or 0)}
  else
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    state = {count = redis.call('ZCARD', key)}
  end
  state.form, state.key = form, key
  states[k] = state
  return state
end

local function cell(state, index)
  local value = state.cells[index]
  if not value then
    value = state.wipe and 0 or tonumber(redis.call('HGET', state.key, index) or 0)
    state.cells[index] = value
  end
  return value
end

local function amount_of(rule, tokens, most)
  return rule[4] == 1 and math.min(tokens, most) or 1
end

-- us until it fits; 0 if it does.
local function wait(state, rule, tokens)
  if state.form == 1 then
    local amount = amount_of(rule, tokens, rule[2])
    if state.total + amount <= rule[2] then return 0 end
    local left = state.total
    for slot = state.current - SLOTS, state.current do
      left = left - cell(state, slot % RING)
      if left + amount <= rule[2] then
        return math.max(1, math.ceil((slot + RING) * state.slot_us - now))
      end
    end
    return state.us
  elseif state.form == 2 then
    local each = state.us / rule[2]
    local amount = amount_of(rule, tokens, rule[3])
    return math.max(0, math.ceil(math.max(state.full_at, now) + amount * each - now - rule[3] * each - 0.001))
  end
  return state.count >= rule[2] and 1000000 or 0
end

local function count(state, rule, tokens, lease)
  if state.form == 1 then
    local index = state.current % RING
    local amount = amount_of(rule, tokens, rule[2])
    state.cells[index] = cell(state, index) + amount
    state.dirty[index] = true
    state.total, state.changed = state.total + amount, true
  elseif state.form == 2 then
    local amount = amount_of(rule, tokens, rule[3])
    state.full_at, state.changed = math.max(state.full_at, now) + amount * state.us / rule[2], true
  else
    redis.call('ZADD', state.key, now + lease_us, lease)
    state.count, state.changed = state.count + 1, true
  end
end

local function used(state, rule)
  if state.form == 1 then return math.max(0, state.total) end
  if state.form == 2 then return math.ceil(math.max(0, state.full_at - now) * rule[2] / state.us) end
  return state.count
end

local function take(operation)
  local lease, tokens, rules = operation[2], operation[3], operation[4]
  local worst, longest = 0, 0
  for i, rule in ipairs(rules) do
    local us = wait(load(rule[1]), rule, tokens)
    if us > longest then worst, longest = i, us end
  end
  local answer = {worst, longest}
  for _, rule in ipairs(rules) do
    local state = states[rule[1]]
    if worst == 0 then count(state, rule, tokens, lease) end
    answer[#answer + 1] = used(state, rule)
    answer[#answer + 1] = state.birth or 0
  end
  return answer
end

local function correct(correction)
  local state = load(correction[1])
  local delta, at, birth = correction[3], correction[4], correction[5]
  if state.form == 2 then
    state.full_at, state.changed = state.full_at + delta * state.us / correction[2], true
    return
  end
  local slot = state.current
  if delta < 0 then
    slot = math.floor(at / state.slot_us)
    if birth ~= state.birth or slot <= state.current - RING or slot > state.current then return end
  end
  local before = cell(state, slot % RING)
  local after = math.max(0, before + delta)
  state.cells[slot % RING] = after
  state.dirty[slot % RING] = true
  state.total, state.changed = state.total + after - before, true
end

local answers = {now}
for _, operation in ipairs(operations) do
  if operation[1] == 1 then
    answers[#answers + 1] = take(operation)
  elseif operation[1] == 2 then
    for _, k in ipairs(operation[3]) do
      local state = load(k)
      state.count = state.count - redis.call('ZREM', state.key, operation[2])
    end
    for _, correction in ipairs(operation[4]) do correct(correction) end
  else
    for _, k in ipairs(operation[3]) do
      local state = load(k)
      state.count = state.count + redis.call('ZADD', state.key, now + lease_us, operation[2])
      state.changed = true
    end
  end
end

for _, state in pairs(states) do
  if state.changed and state.form == 1 then
    if state.wipe then
      redis.call('DEL', state.key)
    elseif #state.gone > 0 then
      redis.call('HDEL', state.key, unpack(state.gone))
    end
    local fields = {'s', state.current, 't', state.total, 'b', state.birth}
    for index in pairs(state.dirty) do
      fields[#fields + 1] = index
      fields[#fields + 1] = state.cells[index]
    end
    redis.call('HSET', state.key, unpack(fields))
    redis.call('PEXPIRE', state.key, math.ceil(state.us / 1000 * 1.05) + 1000)
  elseif state.changed and state.form == 2 then
    local left_ms = math.ceil(math.max(0, state.full_at - now) / 1000)
    redis.call('SET', state.key, string.format('%.0f', state.full_at), 'PX', left_ms + 1000)
  elseif state.changed then
    redis.call('PEXPIRE', state.key, math.ceil(lease_us / 1000) + 1000)
  end
end
return answers
