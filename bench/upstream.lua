-- The model server behind every peer: OpenAI chat completions in vLLM's shape, whole or as server-sent events.
-- The request steers it: `max_tokens` is the number of content events, the model name `paced-<n>ms` the pause between them,
-- or before an answer in one piece.
local ID = "chatcmpl-3b9f8c1d5e7a4f20b6d8c0e1f2a39475"
local CREATED = 1764000000
local WORDS = { " the", " server", " answers", " one", " word", " after", " another", ",", " as", " models", " do", "." }
local USAGE = '"usage":{"prompt_tokens":41,"total_tokens":91,"completion_tokens":50,"prompt_tokens_details":null}'

local upstream = {}

local COMPLETION = string.format(
  '{"id":"%s","object":"chat.completion","created":%d,"model":"paced","choices":[{"index":0,"message":{"role":"assistant",'
    .. '"reasoning_content":null,"content":"A proxy stands between caller and server, passes on what it '
    .. 'is given, keeps books.","tool_calls":[]},"logprobs":null,"finish_reason":"stop",'
    .. '"stop_reason":null}],%s,"prompt_logprobs":null,"kv_transfer_params":null}',
  ID, CREATED, USAGE)

local function event(choices, rest)
  return string.format('data: {"id":"%s","object":"chat.completion.chunk","created":%d,"model":"paced","choices":[%s]%s}\n\n',
    ID, CREATED, choices, rest or "")
end

local function content_event(word, finish)
  return event(string.format('{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":%s}', word, finish))
end

local CONTENT = {}
for i, word in ipairs(WORDS) do CONTENT[i - 1] = content_event(word, "null") end
local LAST = content_event(".", '"stop","stop_reason":null')
local WITH_USAGE = event("", "," .. USAGE)
local DONE = "data: [DONE]\n\n"

local function send(text)
  ngx.print(text)
  return ngx.flush(true)
end

-- Each stream keeps to its own beat. Sleeping a fixed time after each event would let late streams fall in step with others,
-- until all come in one great bunch.
local function next_beat(beat_s, pause_s)
  ngx.update_time()
  ngx.sleep(math.max(beat_s + pause_s - ngx.now(), 0.001))
  return beat_s + pause_s
end

-- Every event is flushed by itself. With a pause after it, the proxy also reads it by itself; without, a busy proxy finds
-- several at once.
local function stream(body)
  local count = tonumber(string.match(body, '"max_tokens"%s*:%s*(%d+)')) or 50
  local pause_s = (tonumber(string.match(body, '"paced%-(%d+)ms"')) or 0) / 1000
  local beat_s = ngx.now()
  ngx.header["content-type"] = "text/event-stream; charset=utf-8"
  for i = 1, count do
    if not send(i < count and CONTENT[i % #WORDS] or LAST) then return end
    if pause_s > 0 then beat_s = next_beat(beat_s, pause_s) end
  end
  if string.find(body, '"include_usage"%s*:%s*true') then send(WITH_USAGE) end
  send(DONE)
end

function upstream.chat_completion()
  ngx.req.read_body()
  local body = ngx.req.get_body_data() or ""
  if string.find(body, '"stream"%s*:%s*true') then return stream(body) end
  local pause_ms = tonumber(string.match(body, '"paced%-(%d+)ms"')) or 0
  if pause_ms > 1 then ngx.sleep(pause_ms / 1000) end  -- a whole answer that takes its time
  ngx.header["content-type"] = "application/json"
  ngx.header["content-length"] = #COMPLETION
  ngx.print(COMPLETION)
end

-- Gateways ask for this to see which models there are, or whether the server lives.
function upstream.models()
  local models = {}
  for i, pause_ms in ipairs({ 0, 1, 50 }) do
    models[i] = string.format('{"id":"paced-%dms","object":"model","created":%d,"owned_by":"bench"}', pause_ms, CREATED)
  end
  ngx.header["content-type"] = "application/json"
  ngx.print('{"object":"list","data":[' .. table.concat(models, ",") .. "]}")
end

return upstream
