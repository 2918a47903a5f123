"""The list of commands. What each does is in the file of its group."""

from __future__ import annotations

import typer

from hub.cli import client_commands, database_commands, dev, doctor, fake_llm, flag_commands, serve, token

app = typer.Typer(
    name="hub",
    help="A multiplexed realtime event hub.",
    no_args_is_help=True,
    add_completion=False,
    # What goes wrong is one line; with LOG_LEVEL=debug it is Python's own traceback.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("dev")(dev.dev)
app.command("serve")(serve.serve)
app.command("serve-worker", hidden=True)(serve.serve_worker)
app.command("migrate")(database_commands.migrate)
app.command("sql")(database_commands.sql)
app.command("doctor")(doctor.doctor)
app.command("token")(token.token)
app.command("fake-llm")(fake_llm.fake_llm)
app.command("publish")(client_commands.publish)
app.command("tail")(client_commands.tail)
app.command("call")(client_commands.call)
app.command("chat")(client_commands.chat)
app.command("stream")(client_commands.stream)
app.command("upload")(client_commands.upload)
app.command("kick")(client_commands.kick)
app.add_typer(flag_commands.app, name="flags")
