"""promptlogctl: the command line."""

from promptlogctl import startup


def main() -> None:
    """Run the command line."""
    startup.open_closed_streams()
    startup.end_at_interrupt()
    from promptlogctl.cli import cli  # takes most of a short command's time, during which Ctrl-C may come

    cli(prog_name="promptlogctl")


if __name__ == "__main__":
    main()
