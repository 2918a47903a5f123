-- Reads a topic's position and a page of its history in one step. Makes or forks the record when that is due, so that
-- a topic that never had an event has an epoch already, and its first event is (that epoch, 1).
-- KEYS: position, history.
-- ARGV: candidate epoch, position ttl, then what is wanted:
--   'top' | 'start' | 'last' n | 'number' seq | 'position' epoch seq
-- and limit and max_bytes (in ARGV[6] and ARGV[7]). A number is one of the epoch that the topic has now.
-- Returns {epoch, top, first, previous, base, server, more, id, ts, body, id, ts, body, …}.

local POSITION, HISTORY = KEYS[1], KEYS[2]
local CANDIDATE_EPOCH, POSITION_TTL_MS, WANTED = ARGV[1], ARGV[2], ARGV[3]

-- Entries asked for at a time, because how large they are is seen only afterwards.
local PAGE = 32

-- The number after which events are wanted. PROTOCOL section 5.
local function wanted_after(record, first)
  if WANTED == 'last' then
    return record.seq - tonumber(ARGV[5])
  end
  if WANTED == 'number' then
    return tonumber(ARGV[5])
  end
  if WANTED == 'position' then
    local epoch, seq = ARGV[4], tonumber(ARGV[5])
    if epoch == record.epoch and seq <= record.seq then
      return seq
    end
    if epoch == record.previous and epoch ~= '' then
      return math.min(seq, record.base)
    end
  end
  return first - 1
end

-- Appends to `reply` up to `limit` entries after `after`; returns the number of the last one.
local function read_after(reply, after, limit, max_bytes)
  local bytes = 0
  while limit > 0 do
    local page = redis.call('XRANGE', HISTORY, digits(after + 1) .. '-0', '+', 'COUNT', math.min(limit, PAGE))
    if #page == 0 then
      return after
    end
    for _, entry in ipairs(page) do
      local body = entry[2][4]
      if bytes > 0 and bytes + #body > max_bytes then
        return after
      end
      bytes, limit, after = bytes + #body, limit - 1, after + 1
      reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = entry[1], entry[2][2], body
    end
  end
  return after
end

local record, changed = load_position(POSITION, HISTORY, server_id(), CANDIDATE_EPOCH)
if changed then
  save_position(POSITION, record, POSITION_TTL_MS, true)
end
-- Numbers have no holes within the history, so its length says where it starts; it may also have expired as a whole.
local first = record.seq - redis.call('XLEN', HISTORY) + 1
local reply = { record.epoch, record.seq, first, record.previous, record.base, record.server, 0 }
if WANTED ~= 'top' then
  local after = math.max(wanted_after(record, first), first - 1)
  if after < record.seq and read_after(reply, after, tonumber(ARGV[6]), tonumber(ARGV[7])) < record.seq then
    reply[7] = 1
  end
end
return reply
