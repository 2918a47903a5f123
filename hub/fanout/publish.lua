-- Publishes one event, atomically: who we are, was it here before, its number, history, the envelope. Or several, which
-- get numbers in a row; seq is then that of the last.
-- KEYS: position, history, and the idempotency key when there is one.
-- Returns {epoch, seq, status, server}; status 0: published, 1: a duplicate, 2: refused because of if_server,
-- 3: refused because of if_top (seq: the top).

local POSITION, HISTORY, DEDUPE = KEYS[1], KEYS[2], KEYS[3]
local CHANNEL, CANDIDATE_EPOCH, IF_SERVER, IF_TOP = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- What stands for the epoch of an ephemeral event; empty: it is kept and has one.
local PUBLISH, EPHEMERAL = ARGV[5], ARGV[6]
local KEPT = EPHEMERAL == ''
local MAX_COUNT, MAX_BYTES, MAX_AGE_MS = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local POSITION_TTL_MS, DEDUPE_TTL_MS = ARGV[10], ARGV[11]
-- The bodies are the arguments from here on.
local FIRST_BODY = 12

-- So that no publication pays for a long tail; two thirds of a burst's excess go with the next few events.
local MOST_TRIMMED = 8
-- What an entry costs beside its body.
local ENTRY_BYTES = 48
-- The history as a whole goes this long after its last event has become too old.
local EXPIRY_SLACK_MS = 60000

-- Makes room for an entry of `size` bytes. Reads nothing from the history while nothing is to be trimmed.
local function trim(record, now, size)
  local length = redis.call('XLEN', HISTORY)
  if length == 0 then
    record.bytes, record.head_ts = 0, now
    return
  end
  -- Numbers have no holes within the history, so its length says where it starts.
  local first = record.seq - length + 1
  local kept_from = first
  for _ = 1, MOST_TRIMMED do
    local fits = length < MAX_COUNT and record.bytes + size <= MAX_BYTES and record.head_ts > now - MAX_AGE_MS
    if length == 0 or fits then break end
    local heads = redis.call('XRANGE', HISTORY, digits(kept_from) .. '-0', '+', 'COUNT', 2)
    record.bytes = record.bytes - #heads[1][2][4] - ENTRY_BYTES
    record.head_ts = heads[2] and tonumber(heads[2][2][2]) or now
    kept_from, length = kept_from + 1, length - 1
  end
  if kept_from > first then
    redis.call('XTRIM', HISTORY, 'MINID', '=', digits(kept_from) .. '-0')
  end
end

local function append(record, now, body)
  local size = #body + ENTRY_BYTES
  trim(record, now, size)
  record.seq, record.bytes = record.seq + 1, record.bytes + size
  redis.call('XADD', HISTORY, digits(record.seq) .. '-0', 'ts', digits(now), 'body', body)
  redis.call('PEXPIRE', HISTORY, digits(MAX_AGE_MS + EXPIRY_SLACK_MS))
end

local server = server_id()
if IF_SERVER ~= '' and IF_SERVER ~= server then
  return { '', 0, 2, server }
end

if DEDUPE then
  -- Honoured in a later epoch too, which is more than the protocol promises: this record was written in one step with
  -- its event and lies in the same data set, so where it has survived a failover, the event has. The outbox needs this.
  local stored = redis.call('GET', DEDUPE)
  if stored then
    local epoch, seq = string.match(stored, '^(%S*) (%d+)$')
    return { epoch, tonumber(seq), 1, server }
  end
end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local epoch, seq = '', 0
if KEPT then
  local record, changed = load_position(POSITION, HISTORY, server, CANDIDATE_EPOCH)
  if IF_TOP ~= '' and tonumber(IF_TOP) ~= record.seq then
    if changed then
      -- As read.lua does: an epoch begins when it is found to be due, whoever finds it.
      save_position(POSITION, record, POSITION_TTL_MS, true)
    end
    return { record.epoch, record.seq, 3, server }
  end
  for index = FIRST_BODY, #ARGV do
    append(record, now, ARGV[index])
  end
  save_position(POSITION, record, POSITION_TTL_MS, changed)
  epoch, seq = record.epoch, record.seq
end
if DEDUPE then
  redis.call('SET', DEDUPE, epoch .. ' ' .. digits(seq), 'PX', DEDUPE_TTL_MS)
end
for index = FIRST_BODY, #ARGV do
  local number = KEPT and seq - #ARGV + index or 0
  local header = (KEPT and epoch or EPHEMERAL) .. ' ' .. digits(number) .. ' ' .. digits(now) .. '\n'
  redis.call(PUBLISH, CHANNEL, header .. ARGV[index])
end
return { epoch, seq, 0, server }
