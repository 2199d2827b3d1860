-- The traffic mix. Each line of the file is one request: method, path, headers as name=value joined by |, body.
local lines = io.lines(FILE)
request = function()
  local line = lines()
  if line == nil then lines = io.lines(FILE); line = lines() end
  local method, path, fields, body = line:match("^(.-)\t(.-)\t(.-)\t(.*)$")
  local headers = {}
  for name, value in fields:gmatch("([^|=]+)=([^|]*)") do headers[name] = value end
  if body == "" then body = nil end
  return wrk.format(method, path, headers, body)
end
done = function(summary, latency, requests)
  io.write(string.format("p95: %.0f us\n", latency:percentile(95)))
end
