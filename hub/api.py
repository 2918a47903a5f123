"""The only module that services import.

A service is a function that takes the ``Hub`` and returns a ``Service``; README.md shows one in twenty lines.
"""

from __future__ import annotations

from hub import markup
from hub.auth.principal import Principal
from hub.config import Settings
from hub.database import Database, Transaction
from hub.edge.authenticate import PUBLIC, HubRequest
from hub.edge.client_ip import client_ip, ip_block
from hub.edge.front_door import break_off
from hub.edge.http_bodies import json_body
from hub.edge.openapi import problem_responses
from hub.edge.problems import HttpError
from hub.errors import ConfigError, ErrorCode, HubError, bad_request, not_found, unavailable
from hub.fanout.broker import Published
from hub.fanout.kept_events import KeptEvent, Page
from hub.flags import Evaluation, Flags, Subject, Switch
from hub.nodes.answers import Answers, Ending
from hub.nodes.attention import Attention
from hub.nodes.cache import Cache
from hub.nodes.callers import Caller, CallerMethod, Handle, Intake
from hub.nodes.duties import Duties, DutyBook
from hub.nodes.limits import Bucket, Quota, SharedLimits
from hub.orgs import OrgId
from hub.service import Check, Finding, Hub, Method, Service, ServiceFactory
from hub.topics.kinds import History, SlowPolicy, TopicKind

__all__ = (
    "PUBLIC",
    "Answers",
    "Attention",
    "Bucket",
    "Cache",
    "Caller",
    "CallerMethod",
    "Check",
    "ConfigError",
    "Database",
    "Duties",
    "DutyBook",
    "Ending",
    "ErrorCode",
    "Evaluation",
    "Finding",
    "Flags",
    "Handle",
    "History",
    "HttpError",
    "Hub",
    "HubError",
    "HubRequest",
    "Intake",
    "KeptEvent",
    "Method",
    "OrgId",
    "Page",
    "Principal",
    "Published",
    "Quota",
    "Service",
    "ServiceFactory",
    "Settings",
    "SharedLimits",
    "SlowPolicy",
    "Subject",
    "Switch",
    "TopicKind",
    "Transaction",
    "bad_request",
    "break_off",
    "client_ip",
    "ip_block",
    "json_body",
    "markup",
    "not_found",
    "problem_responses",
    "unavailable",
)
