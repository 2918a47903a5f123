-- Shared by publish.lua and read.lua: a topic's position record and the rules for making and forking it.
-- Redis 7.2 commands only. Numbers are written with %.0f, because Lua would turn large ones into 1e+15.

-- A hash: epoch, seq (top), bytes and head_ts (of what is kept), previous and base (of the last fork), server.
local FIELDS = { 'epoch', 'seq', 'bytes', 'head_ts', 'previous', 'base', 'server' }

local function digits(number)
  return string.format('%.0f', number)
end

-- Asked here, in the script, so that the answer is the server that executes it and not one a connection remembers.
local function server_id()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

-- Returns the record and whether it has changed and must be saved.
local function load_position(position, history, server, candidate_epoch)
  local found = redis.call('HMGET', position, unpack(FIELDS))
  if not found[1] then
    -- Its numbers start again, so what is left of the history must not be mistaken for theirs.
    redis.call('DEL', history)
    return {
      epoch = candidate_epoch, seq = 0, bytes = 0, head_ts = 0, previous = '', base = 0, server = server,
    }, true
  end
  local record = {
    epoch = found[1], seq = tonumber(found[2]), bytes = tonumber(found[3]), head_ts = tonumber(found[4]),
    previous = found[5], base = tonumber(found[6]), server = found[7],
  }
  if record.server == server then
    return record, false
  end
  -- Another server may lack the newest events and give their numbers again; what it has is common to both epochs.
  record.previous, record.base = record.epoch, record.seq
  record.epoch, record.server = candidate_epoch, server
  return record, true
end

local function save_position(position, record, ttl_ms, changed)
  if changed then
    redis.call('HSET', position,
      'epoch', record.epoch, 'previous', record.previous, 'base', digits(record.base), 'server', record.server)
  end
  redis.call('HSET', position,
    'seq', digits(record.seq), 'bytes', digits(record.bytes), 'head_ts', digits(record.head_ts))
  redis.call('PEXPIRE', position, ttl_ms)
end
