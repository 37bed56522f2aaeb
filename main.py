"""The command line of Galley. No logic of its own: each command reads the settings and calls what does the work."""

from __future__ import annotations

import click

from server import commands, settings
from server.command_line import dead_letters, executors, queues, schedules, tasks, tenants
from server.command_line.session import read_settings, run
from services.access import ROLES


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(settings.RELEASE, prog_name="galley")
def main() -> None:
    """Galley, a self-hosted task desk for language-model work. Settings are read from the environment."""


@main.command()
@click.option(
    "--demo", is_flag=True, help="Make the demo tenant: documents, prompts, an admin, one article under way."
)
def serve(demo: bool) -> None:
    """Serve pages and API and run tasks, as far as ROLE says."""
    run(commands.serve(read_settings(), demo=demo))


@main.command()
@click.option("--check", is_flag=True, help="Change nothing; end with 1 when the database is behind.")
@click.option(
    "--to",
    type=click.IntRange(min=0),
    help="Roll back to this schema version; newer tables and their data are lost.",
)
def migrate(check: bool, to: int | None) -> None:
    """Bring the database schema up to date."""
    run(commands.migrate(read_settings(), check=check, to=to))


for noun in (tasks, queues, executors, schedules, dead_letters, tenants):
    main.add_command(noun.group)


@main.group()
def key() -> None:
    """API keys."""


@key.command("create")
@click.option("--tenant", required=True, help="The tenant's name; made where it is new.")
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option(
    "--name", default="cli", show_default=True, help="How history names what is done with this key."
)
def create_key(tenant: str, role: str, name: str) -> None:
    """Make an API key and print it, and nothing else."""
    run(commands.create_key(read_settings(quiet=True), tenant=tenant, role=role, name=name))


@main.group()
def user() -> None:
    """People who sign in."""


@user.command("create")
@click.option("--tenant", required=True, help="The tenant's name; made where it is new.")
@click.option("--email", required=True)
@click.option("--role", required=True, type=click.Choice(ROLES))
@click.option("--name", default="", help="How pages name this person.")
@click.option("--password", prompt=True, hide_input=True, confirmation_prompt=True, envvar="GALLEY_PASSWORD")
def create_user(tenant: str, email: str, role: str, name: str, password: str) -> None:
    """Make a person who may sign in."""
    run(
        commands.create_user(
            read_settings(quiet=True),
            tenant=tenant,
            email=email,
            role=role,
            name=name or email,
            password=password,
        )
    )


if __name__ == "__main__":
    main()
