-- wrk's side of a measurement: one prepared request over and over, and what came of it as one line of JSON.
-- Arguments after `--`: the file with the request body, the caller's key.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "*/*"
  wrk.headers["User-Agent"] = "OpenAI/Python 1.109.1"
  wrk.headers["Authorization"] = "Bearer " .. args[2]
  prepared = wrk.format()
end

function request()
  return prepared
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"received_bytes":%d,"duration_us":%d,"failed":%d}\n',
    summary.requests, summary.bytes, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
