"""Redis: connections, scripts and who is master, in one place, for one server, a cluster or sentinels.

Everything that speaks to Redis goes through ``Redis``; only the pub/sub links of ``hub.fanout`` hold connections of
their own, which they open here too. Nothing above sees an exception of the client library.
"""

from hub.redis.calls import Arg, Command, Script, ScriptCall, load_script
from hub.redis.client import Redis, Refused
from hub.redis.masters import Login

__all__ = ("Arg", "Command", "Login", "Redis", "Refused", "Script", "ScriptCall", "load_script")
