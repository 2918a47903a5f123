-- What the scripts of duties share: names, and the clock by which leases end.
-- KEYS: ends of leases, holders, clock   ARGV: lease_ms, grace_ms, this node, then what the script says
local ENDS, HOLDERS, CLOCK = KEYS[1], KEYS[2], KEYS[3]
local LEASE_MS, GRACE_MS, ME = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

local function digits(number)
  return string.format('%.0f', number)
end

-- The duty clock: Redis' own time, but only as far as nodes were there to see it pass. While Redis is away, or another
-- server with another time takes over, it stands, and goes on standing until every holder had the time to come back.
local function duty_clock()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local record = redis.call('HMGET', CLOCK, 'at', 'ms')
  local at, ms = tonumber(record[1]), tonumber(record[2])
  if not at then
    at, ms = now, now
  else
    local passed, turn = now - at, LEASE_MS / 4
    if passed > 2 * turn or passed < -GRACE_MS then
      at = now + GRACE_MS
    elseif passed > 0 then
      -- A node that was cut off for longer than a turn should find most of its lease left.
      at, ms = now, ms + math.floor(math.min(passed, turn))
    else
      return ms
    end
  end
  redis.call('HSET', CLOCK, 'at', digits(at), 'ms', digits(ms))
  return ms
end
