"""What the hub is measured against in the same run: two loops in Python, and other programs that are installed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import hiredis

from loadtest.generators import Clients, Publication
from loadtest.reference_litestar import TOPIC as LITESTAR_TOPIC
from loadtest.servers import EVENT_BYTES, Server, free_port, payload, python

_TOPIC = "bench"
_NGINX = "/usr/sbin/nginx"
_NCHAN = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/lib64/nginx/modules/ngx_nchan_module.so")


class OverRedis(Server):
    """A reference that gets its messages from a Redis channel."""

    def __init__(self, folder: Path, redis_socket: str) -> None:
        super().__init__(folder)
        self._redis_socket = redis_socket

    def _publication(self, channel: str) -> Publication:
        words = (b"PUBLISH", channel.encode(), payload(EVENT_BYTES))
        return Publication(to=self._redis_socket, message=hiredis.pack_command(words), answer=":")  # type: ignore[arg-type]


class UvloopServer(OverRedis):
    """``reference_uvloop``."""

    name = "bare uvloop"

    def command(self) -> Sequence[str]:
        return python("loadtest.reference_uvloop", str(self.port), self._redis_socket)

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        numbers = range(connections) if own_topics else range(1)
        return self.saying([f'{{"subscribe":[{{"topic":"{_TOPIC}:{number:05d}"}}]}}' for number in numbers])

    def saying(self, hellos: Sequence[str]) -> Clients:
        """Clients that say these."""
        return Clients(port=self.port, hellos=hellos)

    def publication(self) -> Publication:
        return self._publication(f"{_TOPIC}:~~~~~")


class LitestarServer(OverRedis):
    """``reference_litestar``. Its topics are routes, so there is only the shared one."""

    name = "litestar channels"

    def command(self) -> Sequence[str]:
        return python("loadtest.reference_litestar", str(self.port), self._redis_socket)

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        return Clients(port=self.port, path=f"/ws/{LITESTAR_TOPIC}")

    def publication(self) -> Publication:
        return self._publication(LITESTAR_TOPIC)

    def http_publication(self) -> Publication:
        """The route that answers and publishes nothing."""
        body = b'{"topic":"x:y","name":"bench","data":' + payload(EVENT_BYTES) + b"}"
        head = "POST /v1/publish HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        message = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return Publication(to=f"127.0.0.1:{self.port}", message=message, answer="HTTP/1.1 200")


class NchanServer(Server):
    """nginx with nchan, one worker; published to by HTTP."""

    name = "nchan"

    @staticmethod
    def module() -> str | None:
        """Where the module is."""
        return next((path for path in _NCHAN if Path(path).exists()), None)

    def command(self) -> Sequence[str]:
        (self.folder / "nchan.conf").write_text(f"""
            load_module {self.module()};
            daemon off; worker_processes 1; pid {self.folder}/nchan.pid; error_log stderr error;
            events {{ worker_connections 16384; }}
            http {{
                access_log off; keepalive_requests 100000000; client_body_temp_path {self.folder};
                server {{
                    listen 127.0.0.1:{self.port} backlog=4096;
                    location /pub {{ nchan_publisher; nchan_channel_id {_TOPIC}; }}
                    location /ws {{ nchan_subscriber websocket; nchan_channel_id {_TOPIC}; }}
                }}
            }}""")
        return [shutil.which("nginx") or _NGINX, "-p", str(self.folder), "-c", str(self.folder / "nchan.conf")]

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        return Clients(port=self.port)

    def publication(self) -> Publication:
        head = f"POST /pub HTTP/1.1\r\nHost: bench\r\nContent-Length: {EVENT_BYTES}\r\n\r\n".encode()
        return Publication(to=f"127.0.0.1:{self.port}", message=head + payload(EVENT_BYTES), answer="HTTP/1.1 20")


class NatsServer(Server):
    """The NATS server on one core, its clients over WebSocket."""

    name = "NATS"

    def command(self) -> Sequence[str]:
        self._plain_port = free_port()
        (self.folder / "nats.conf").write_text(
            f'listen: "127.0.0.1:{self._plain_port}"\n'
            f'websocket {{ listen: "127.0.0.1:{self.port}", no_tls: true }}\nmax_connections: 20000\n'
        )
        return [shutil.which("nats-server") or "nats-server", "-c", str(self.folder / "nats.conf")]

    def environment(self) -> Mapping[str, str]:
        return {"GOMAXPROCS": "1"}

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        words = [f"SUB {_TOPIC} 1", "PING", ""]
        return Clients(
            port=self.port,
            path="/",
            hellos=[('CONNECT {"verbose":false}\r\n' + "\r\n".join(words)).encode().hex()],
            hexadecimal=True,
            welcome="PONG",
        )

    def publication(self) -> Publication:
        return Publication(
            to=f"127.0.0.1:{self._plain_port}",
            preamble=b'CONNECT {"verbose":false}\r\n',
            message=f"PUB {_TOPIC} {EVENT_BYTES}\r\n".encode() + payload(EVENT_BYTES) + b"\r\n",
        )


class MosquittoServer(Server):
    """mosquitto; MQTT 3.1.1 over WebSocket, quality of service 0."""

    name = "mosquitto"

    def command(self) -> Sequence[str]:
        self._plain_port = free_port()
        (self.folder / "mosquitto.conf").write_text(
            f"allow_anonymous true\nlistener {self._plain_port} 127.0.0.1\n"
            f"listener {self.port} 127.0.0.1\nprotocol websockets\n"
        )
        return [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(self.folder / "mosquitto.conf")]

    def clients(self, connections: int, *, own_topics: bool = False) -> Clients:
        subscribe = b"\x82" + bytes((len(_TOPIC) + 5,)) + b"\0\1" + _mqtt_text(_TOPIC) + b"\0"
        return Clients(
            port=self.port,
            path="/mqtt",
            headers=["Sec-WebSocket-Protocol: mqtt"],
            hellos=[(_mqtt_connect(f"c{number:05d}") + subscribe).hex() for number in range(connections)],
            hexadecimal=True,
            welcome="",
        )

    def publication(self) -> Publication:
        body = _mqtt_text(_TOPIC) + payload(EVENT_BYTES)
        size = bytes((len(body) % 128 | 128, len(body) // 128))
        return Publication(
            to=f"127.0.0.1:{self._plain_port}", preamble=_mqtt_connect("publisher"), message=b"\x30" + size + body
        )


def _mqtt_text(text: str) -> bytes:
    return len(text).to_bytes(2, "big") + text.encode()


def _mqtt_connect(client: str) -> bytes:
    """CONNECT: MQTT 3.1.1, clean session, no keep-alive."""
    body = _mqtt_text("MQTT") + b"\4\2\0\0" + _mqtt_text(client)
    return b"\x10" + bytes((len(body),)) + body


def references(folder: Path, redis_socket: str) -> tuple[list[Server], list[str]]:
    """Those that can run here, and a line about each that cannot."""
    found: list[Server] = [UvloopServer(folder, redis_socket), LitestarServer(folder, redis_socket)]
    missing = []
    if NchanServer.module() and (shutil.which("nginx") or Path(_NGINX).exists()):
        found.append(NchanServer(folder))
    else:
        missing.append("nchan: nginx with ngx_nchan_module is not installed")
    for kind, program in ((NatsServer, "nats-server"), (MosquittoServer, "mosquitto")):
        if shutil.which(program) or Path("/usr/sbin", program).exists():
            found.append(kind(folder))
        else:
            missing.append(f"{kind.name}: {program} is not on PATH")
    missing.append("Centrifugo: this bench does not know how to start it")
    return found, missing
