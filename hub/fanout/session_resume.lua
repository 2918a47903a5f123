-- Claims a session for a new connection, atomically: whoever runs this last owns it.
-- KEYS: session   ARGV: user, node, connection, ttl_s
-- Answers false for an unknown session or another user's, else
-- {previous node, previous connection, the claim's number, how it was present, topic, position, …}.
if redis.call('HGET', KEYS[1], 'user') ~= ARGV[1] then
  return false
end
local fields = redis.call('HGETALL', KEYS[1])
local answer = {'', '', '', ''}
local claim = 0
for i = 1, #fields, 2 do
  local name, value = fields[i], fields[i + 1]
  if name == 'node' then
    answer[1] = value
  elseif name == 'connection' then
    answer[2] = value
  elseif name == 'claim' then
    claim = tonumber(value)
  elseif name == 'presence' then
    answer[4] = value
  elseif string.find(name, ':', 1, true) then
    answer[#answer + 1] = name
    answer[#answer + 1] = value
  end
end
-- Microseconds, so that the claims of two servers, of which one has replaced the other, are in order too.
local time = redis.call('TIME')
answer[3] = string.format('%.0f', math.max(claim + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', KEYS[1], 'node', ARGV[2], 'connection', ARGV[3], 'claim', answer[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return answer
