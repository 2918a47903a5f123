-- Shared by the scripts of presence: who is present in a topic, how many, and what is told of it.
-- KEYS: members of the topic, users in it of one instance of a node (not for presence_read.lua)
-- ARGV: a candidate epoch, how long it is kept (ms), most members that are listed, then what the script says.
--
-- The members are a hash. Its record: epoch, version, online, away, server, listed, and the last count that was told
-- (told: its version, told_ms). Its members: 'u' .. user -> the instances that have the user, each behind the letter of
-- its status; a newline; the user in JSON without braces, which may therefore be anything.
local MEMBERS, USERS = KEYS[1], KEYS[2]
local CANDIDATE_EPOCH, KEEP_MS, MOST_LISTED = ARGV[1], ARGV[2], tonumber(ARGV[3])
local FIELDS = { 'epoch', 'version', 'online', 'away', 'server', 'listed', 'told', 'told_ms' }
-- A topic whose members went down to this share of the most is listed again; otherwise one that comes and goes at the
-- limit would cost everybody a snapshot each time.
local LISTED_AGAIN = 0.9

local function digits(number)
  return string.format('%.0f', number)
end

-- Returns the record and whether it is a new epoch: after another server has taken over, or data were lost, versions may
-- have been given that stand for something else.
local function load_record()
  local server = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  local found = redis.call('HMGET', MEMBERS, unpack(FIELDS))
  local record = {
    epoch = found[1], version = tonumber(found[2]) or 0, online = tonumber(found[3]) or 0,
    away = tonumber(found[4]) or 0, listed = found[6] ~= '0', told = tonumber(found[7]) or 0,
    told_ms = tonumber(found[8]) or 0,
  }
  local changed = found[5] ~= server
  if changed then
    record.epoch, record.server = CANDIDATE_EPOCH, server
  end
  return record, changed
end

-- Fields and values to be set, `more` after them. What is set first says whether Redis has memory; the rest follows it.
local function save_record(record, more)
  local fields = {
    'version', digits(record.version), 'online', digits(record.online), 'away', digits(record.away),
    'listed', record.listed and '1' or '0', 'told', digits(record.told), 'told_ms', digits(record.told_ms),
  }
  if record.server then
    fields[#fields + 1], fields[#fields + 2] = 'epoch', record.epoch
    fields[#fields + 1], fields[#fields + 2] = 'server', record.server
  end
  for _, value in ipairs(more) do
    fields[#fields + 1] = value
  end
  redis.call('HSET', MEMBERS, unpack(fields))
end
