-- Renews leases; writes anew what Redis has forgotten.
-- ARGV, after those of duty_clock.lua: the duties (at least one). Returns those that another node has.
local ends = digits(duty_clock() + LEASE_MS)
local holders = redis.call('HMGET', HOLDERS, unpack(ARGV, 4))
local lost, mine, forgotten = {}, {}, {}
for i, holder in ipairs(holders) do
  local duty = ARGV[3 + i]
  if holder and holder ~= ME then
    lost[#lost + 1] = duty
  else
    mine[#mine + 1] = ends
    mine[#mine + 1] = duty
    if not holder then
      forgotten[#forgotten + 1] = duty
      forgotten[#forgotten + 1] = ME
    end
  end
end
if #mine > 0 then
  redis.call('ZADD', ENDS, unpack(mine))
end
if #forgotten > 0 then
  redis.call('HSET', HOLDERS, unpack(forgotten))
end
return lost
