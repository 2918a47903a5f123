-- The run_id of the server that holds KEYS[1].
return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
